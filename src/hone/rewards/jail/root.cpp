// The file system that a program sees: a new root of a few read-only folders of the host, no /proc, no /sys, and a bounded /tmp.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>

#include "hone/rewards/jail/jail.h"

namespace hone::jail {
namespace {

// Of linux/mount.h, which cannot be included beside sys/mount.h of older C libraries.
struct MountAttributes {
  uint64_t set, clear, propagation, user_namespace;
};
constexpr uint64_t kReadOnly = 1, kNoSuid = 2, kNoDevices = 4;

constexpr const char* kDevices[] = {"null", "zero", "full", "random", "urandom"};

struct Builder {
  const Pipes& pipes;

  void need(bool done, const char* what) const {
    if (!done) give_up(pipes, Status::no_isolation, what);
  }

  void make_folders(const std::string& path) const {
    for (size_t slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1)) {
      mkdir(path.substr(0, slash).c_str(), 0755);
    }
    mkdir(path.c_str(), 0755);  // a folder that cannot be made shows when it is mounted on
  }

  void mount_memory(const std::string& path, const std::string& options, unsigned long flags) const {
    make_folders(path);
    need(mount("sandbox", path.c_str(), "tmpfs", flags, options.c_str()) == 0, "mount a file system in memory");
  }

  /// Read-only with all that is mounted below it (Linux 5.12 and later; before that, the upper one alone).
  void protect(const std::string& path, unsigned long old_flags) const {
    MountAttributes wanted{kReadOnly | kNoSuid | kNoDevices, 0, 0, 0};
    if (syscall(SYS_mount_setattr, AT_FDCWD, path.c_str(), AT_RECURSIVE, &wanted, sizeof wanted) == 0) return;
    need(mount(nullptr, path.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | old_flags, nullptr) == 0, "make a folder read-only");
  }

  void show(const std::string& path) const {
    const std::string from = "/oldroot" + path, to = "/newroot" + path;
    struct stat info {};
    if (lstat(from.c_str(), &info) != 0) return;  // what the host does not have
    if (S_ISLNK(info.st_mode)) {
      char target[PATH_MAX];
      const ssize_t size = readlink(from.c_str(), target, sizeof target - 1);
      if (size <= 0) return;
      target[size] = 0;
      make_folders(to.substr(0, to.rfind('/')));
      need(symlink(target, to.c_str()) == 0 || errno == EEXIST, "make a link");
      return;
    }
    if (S_ISDIR(info.st_mode)) {
      make_folders(to);
    } else {
      make_folders(to.substr(0, to.rfind('/')));
      close(open(to.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    }
    need(mount(from.c_str(), to.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0, "bind a folder of the host");
    protect(to, MS_NOSUID | MS_NODEV);
  }

  void show_devices() const {
    make_folders("/newroot/dev");
    for (const char* name : kDevices) {
      const std::string from = std::string("/oldroot/dev/") + name, to = std::string("/newroot/dev/") + name;
      close(open(to.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
      need(mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr) == 0, "bind a device");
    }
  }

  /// A place on the host to stand on while the new root is made; nothing of it is changed outside this namespace.
  const char* base() const {
    for (const char* path : {"/tmp", "/mnt", "/run", "/var/tmp"}) {
      struct stat info {};
      if (lstat(path, &info) == 0 && S_ISDIR(info.st_mode)) return path;
    }
    return "/tmp";
  }
};

}  // namespace

int build_root(const SandboxJob& job, const Pipes& pipes) {
  const Builder build{pipes};
  build.need(mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) == 0, "keep mounts to itself");
  const char* base = build.base();
  build.need(mount("sandbox", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") == 0, "mount a file system in memory");
  build.need(chdir(base) == 0 && mkdir("newroot", 0755) == 0 && mkdir("oldroot", 0755) == 0, "make a folder");
  build.need(syscall(SYS_pivot_root, ".", "oldroot") == 0 && chdir("/") == 0, "change the root");
  build.mount_memory("/newroot", "mode=0755,size=1m,nr_inodes=4096", MS_NOSUID | MS_NODEV);
  build.show_devices();
  char options[96];
  snprintf(options, sizeof options, "mode=1777,nr_inodes=4096,size=%lld", static_cast<long long>(job.scratch_limit));
  build.mount_memory("/newroot/tmp", options, MS_NOSUID | MS_NODEV);
  build.mount_memory("/newroot/dev/shm", "mode=1777,nr_inodes=64,size=4m", MS_NOSUID | MS_NODEV | MS_NOEXEC);
  for (const std::string& path : job.visible) build.show(path);  // after /tmp: an interpreter may stand there
  const size_t texts = job.file_text.size() + job.shown_text.size();
  snprintf(options, sizeof options, "mode=0755,nr_inodes=16,size=%zu", 2 * texts + (size_t{1} << 16));
  const std::string folder = "/newroot" + job.folder;
  build.mount_memory(folder, options, MS_NOSUID | MS_NODEV);
  // The mount below stays writable through this descriptor alone; what the program sees lies above it.
  const int writable = open(folder.c_str(), O_DIRECTORY | O_RDONLY | O_CLOEXEC);
  build.need(writable >= 0, "open a folder");
  build.need(mount(folder.c_str(), folder.c_str(), nullptr, MS_BIND, nullptr) == 0, "bind a folder");
  build.protect(folder, MS_NOSUID | MS_NODEV);

  build.need(umount2("/oldroot", MNT_DETACH) == 0, "leave the host's files");
  build.need(chdir("/newroot") == 0 && syscall(SYS_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0, "change the root");
  MountAttributes wanted{kReadOnly, 0, 0, 0};
  if (syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &wanted, sizeof wanted) != 0) {
    build.need(mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, nullptr) == 0, "make the root read-only");
  }
  return writable;
}

}  // namespace hone::jail
