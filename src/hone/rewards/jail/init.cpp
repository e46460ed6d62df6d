// Process 1 of the sandbox: makes the inside, starts the program, waits for it.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "hone/rewards/jail/jail.h"

namespace hone::jail {
namespace {

// The user inside; a number that is nobody on the host's side of the namespace's map.
constexpr unsigned kInside = 65534;

bool write_text(const char* path, const char* text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool done = write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text));
  close(fd);
  return done;
}

/// The user namespace knows one user and one group: hone's own.
void map_identity(unsigned user, unsigned group, const Pipes& pipes) {
  char map[64];
  if (!write_text("/proc/self/setgroups", "deny")) give_up(pipes, Status::no_isolation, "deny setgroups in a user namespace");
  snprintf(map, sizeof map, "%u %u 1\n", kInside, user);
  if (!write_text("/proc/self/uid_map", map)) give_up(pipes, Status::no_isolation, "map the user into a user namespace");
  snprintf(map, sizeof map, "%u %u 1\n", kInside, group);
  if (!write_text("/proc/self/gid_map", map)) give_up(pipes, Status::no_isolation, "map the group into a user namespace");
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (const std::string& text : texts) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

/// Gives `fd` the number that the job names; false where that fails.
bool place_descriptor(int fd, int number) { return number < 0 || dup2(fd, number) == number; }

[[noreturn]] void become_program(const SandboxJob& job, Pipes pipes, const Identity& identity) {
  prctl(PR_SET_DUMPABLE, 1);
  setsid();
  // Descriptors first go where nothing that is placed below can overwrite them.
  const int high = job.open_files;
  const auto lift = [&](int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, high); };
  const int input = lift(open("/dev/null", O_RDONLY | O_CLOEXEC)), output = lift(pipes.output.write);
  const int key = job.key_fd >= 0 ? lift(pipes.key.read) : -1, report = job.report_fd >= 0 ? lift(pipes.report.write) : -1;
  pipes.status.write = lift(pipes.status.write);
  if (input < 0 || output < 0 || pipes.status.write < 0) give_up(pipes, Status::fault, "prepare the program's descriptors");
  close_range(0, static_cast<unsigned>(high) - 1, 0);
  if (!place_descriptor(input, 0) || !place_descriptor(output, 1) || !place_descriptor(output, 2) || !place_descriptor(key, job.key_fd) ||
      !place_descriptor(report, job.report_fd)) {
    give_up(pipes, Status::fault, "prepare the program's descriptors");
  }
  if (chdir(job.isolated ? "/tmp" : job.folder.c_str()) != 0) give_up(pipes, Status::fault, "enter the working folder");
  umask(022);
  set_limits(job, pipes);
  drop_privileges(job, identity, pipes);
  execve(job.argv[0].c_str(), pointers(job.argv).data(), pointers(job.environment).data());
  give_up(pipes, Status::fault, ("start " + job.argv[0]).c_str());
}

}  // namespace

void give_up(const Pipes& pipes, Status::Kind kind, const char* what) {
  Status status;
  status.kind = kind;
  snprintf(status.text, sizeof status.text, "cannot %s: %s", what, strerror(errno));
  const ssize_t written = write(pipes.status.write, &status, sizeof status);
  _exit(written == static_cast<ssize_t>(sizeof status) ? 0 : 1);
}

void run_init(const SandboxJob& job, Pipes& pipes, const Identity& identity) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  pipes.go.close_write();
  char go = 0;
  if (read(pipes.go.read, &go, 1) != 1) _exit(1);
  pipes.output.close_read();
  pipes.report.close_read();
  pipes.key.close_write();
  pipes.status.close_read();
  int folder = -1;
  if (job.isolated) {
    if (!identity.root) map_identity(identity.outside, identity.group, pipes);
    if (sethostname("sandbox", 7) != 0) give_up(pipes, Status::no_isolation, "name the host of a namespace");
    folder = build_root(job, pipes);
    prctl(PR_SET_DUMPABLE, 0);  // the program may not look into this process
  } else {
    setsid();
    folder = open(job.folder.c_str(), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  }
  place_file(job, folder, pipes);
  signal(SIGPIPE, SIG_IGN);
  const pid_t program = fork();
  if (program < 0) give_up(pipes, Status::fault, "start a process");
  if (program == 0) {
    signal(SIGPIPE, SIG_DFL);
    close(folder);
    become_program(job, pipes, identity);
  }
  pipes.output.close_write();
  pipes.report.close_write();
  pipes.key.close_read();
  Status status;
  status.kind = Status::ended;
  status.wait_status = feed_and_wait(job, folder, program);
  const ssize_t written = write(pipes.status.write, &status, sizeof status);
  _exit(written == static_cast<ssize_t>(sizeof status) ? 0 : 1);
}

}  // namespace hone::jail
