// What the program's process gives up before it becomes the program: resources, its user, capabilities, system calls.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>

#include "hone/rewards/jail/jail.h"

namespace hone::jail {
namespace {

/// System calls that no test of a program needs and that reach beyond it: other processes' memory, the kernel's configuration, new
/// namespaces, mounts, keys, sockets, and memory that no limit here counts (memfd, System V and POSIX shared memory and queues).
constexpr int kRefused[] = {SYS_socket,
                            SYS_connect,
                            SYS_bind,
                            SYS_listen,
                            SYS_accept,
                            SYS_accept4,
                            SYS_sendmsg,
                            SYS_sendmmsg,
                            SYS_ptrace,
                            SYS_process_vm_readv,
                            SYS_process_vm_writev,
                            SYS_pidfd_open,
                            SYS_pidfd_getfd,
                            SYS_kcmp,
                            SYS_process_madvise,
                            SYS_mount,
                            SYS_umount2,
                            SYS_pivot_root,
                            SYS_chroot,
                            SYS_unshare,
                            SYS_setns,
                            SYS_open_tree,
                            SYS_move_mount,
                            SYS_fsopen,
                            SYS_fsconfig,
                            SYS_fsmount,
                            SYS_fspick,
                            SYS_mount_setattr,
                            SYS_swapon,
                            SYS_swapoff,
                            SYS_quotactl,
                            SYS_quotactl_fd,
                            SYS_acct,
                            SYS_open_by_handle_at,
                            SYS_name_to_handle_at,
                            SYS_fanotify_init,
                            SYS_fanotify_mark,
                            SYS_inotify_init,
                            SYS_inotify_init1,
                            SYS_keyctl,
                            SYS_add_key,
                            SYS_request_key,
                            SYS_bpf,
                            SYS_perf_event_open,
                            SYS_userfaultfd,
                            SYS_syslog,
                            SYS_lookup_dcookie,
                            SYS_init_module,
                            SYS_finit_module,
                            SYS_delete_module,
                            SYS_kexec_load,
                            SYS_kexec_file_load,
                            SYS_reboot,
                            SYS_settimeofday,
                            SYS_clock_settime,
                            SYS_adjtimex,
                            SYS_clock_adjtime,
                            SYS_sethostname,
                            SYS_setdomainname,
                            SYS_ioperm,
                            SYS_iopl,
                            SYS_modify_ldt,
                            SYS_personality,
                            SYS_vhangup,
                            SYS_nfsservctl,
                            SYS_shmget,
                            SYS_shmat,
                            SYS_msgget,
                            SYS_semget,
                            SYS_mq_open,
                            SYS_memfd_secret,
                            SYS_mknod,
                            SYS_mknodat,
                            SYS_migrate_pages,
                            SYS_move_pages,
                            SYS_mbind,
                            SYS_set_mempolicy};
/// Calls that programs try and do without where the system does not have them.
constexpr int kAbsent[] = {SYS_clone3, SYS_memfd_create, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register};
constexpr int kNewest = 450;  // set_mempolicy_home_node; what later systems add is absent
constexpr unsigned kNewNamespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWUSER | CLONE_NEWCGROUP | 0x80;

constexpr unsigned refuse(int error) { return SECCOMP_RET_ERRNO | static_cast<unsigned>(error); }

/// The filter: another architecture's calls kill; then by number.
int make_filter(sock_filter* code) {
  int n = 0;
  const auto add = [&](sock_filter one) { code[n++] = one; };
  const auto load = [&](unsigned offset) { add(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)); };
  const auto give = [&](unsigned value) { add(BPF_STMT(BPF_RET | BPF_K, value)); };
  load(offsetof(seccomp_data, arch));
  add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  give(SECCOMP_RET_KILL_PROCESS);
  load(offsetof(seccomp_data, nr));
  add(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, kNewest, 0, 1));  // x32 calls are beyond it too
  give(refuse(ENOSYS));
  for (const int call : kRefused) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    give(refuse(EPERM));
  }
  for (const int call : kAbsent) {
    add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
    give(refuse(ENOSYS));
  }
  // clone may make threads and processes, not namespaces. Its flags are the first argument, the lower half first in memory.
  add(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3));
  load(offsetof(seccomp_data, args));
  add(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kNewNamespaces, 0, 1));
  give(refuse(EPERM));
  give(SECCOMP_RET_ALLOW);
  return n;
}

void install_filter(const Pipes& pipes) {
  sock_filter code[400];
  sock_fprog program{};
  program.len = static_cast<unsigned short>(make_filter(code));
  program.filter = code;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) give_up(pipes, Status::no_isolation, "install a seccomp filter");
}

void limit(int resource, int64_t soft, int64_t hard, const Pipes& pipes) {
  rlimit now{};
  getrlimit(static_cast<__rlimit_resource_t>(resource), &now);
  const rlim_t most = now.rlim_max;  // what hone itself is limited to stays
  const rlimit wanted{std::min<rlim_t>(static_cast<rlim_t>(soft), most), std::min<rlim_t>(static_cast<rlim_t>(hard), most)};
  if (setrlimit(static_cast<__rlimit_resource_t>(resource), &wanted) != 0) give_up(pipes, Status::fault, "set a resource limit");
}

}  // namespace

void set_limits(const SandboxJob& job, const Pipes& pipes) {
  // Whole seconds, and one more: the supervisor counts finer and all processes together; this one holds where the supervisor is slow.
  const auto seconds = static_cast<int64_t>(std::ceil(job.cpu_limit)) + 1;
  limit(RLIMIT_CPU, seconds, seconds + 1, pipes);
  limit(RLIMIT_AS, job.memory_limit, job.memory_limit, pipes);
  limit(RLIMIT_FSIZE, job.scratch_limit, job.scratch_limit, pipes);
  limit(RLIMIT_NOFILE, job.open_files, job.open_files, pipes);
  limit(RLIMIT_CORE, 0, 0, pipes);
  limit(RLIMIT_MEMLOCK, 0, 0, pipes);
  limit(RLIMIT_MSGQUEUE, 0, 0, pipes);
  limit(RLIMIT_SIGPENDING, 256, 256, pipes);
  limit(RLIMIT_RTPRIO, 0, 0, pipes);
  // Unsandboxed, the limit would count the user's other processes as well.
  if (job.isolated) limit(RLIMIT_NPROC, job.processes, job.processes, pipes);
}

void drop_privileges(const SandboxJob& job, const Identity& identity, const Pipes& pipes) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) give_up(pipes, Status::no_isolation, "set no_new_privs");
  if (!job.isolated) return;
  for (int capability = 0; capability <= 63; ++capability) {
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EINVAL) give_up(pipes, Status::no_isolation, "drop a capability");
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (identity.root) {
    // A container may map few users: then the traditional "nobody" must do, and runs share their count of processes.
    unsigned user = identity.outside;
    if (setgroups(0, nullptr) != 0) give_up(pipes, Status::no_isolation, "drop supplementary groups");
    if (setresgid(user, user, user) != 0) {
      user = 65534;
      if (setresgid(user, user, user) != 0) give_up(pipes, Status::no_isolation, "change the group");
    }
    if (setresuid(user, user, user) != 0) give_up(pipes, Status::no_isolation, "change the user");
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) give_up(pipes, Status::no_isolation, "drop all capabilities");
  install_filter(pipes);
}

}  // namespace hone::jail
