#include "hone/rewards/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "hone/base/error.h"
#include "hone/base/process.h"

// The helper's bytes, put into this library by the assembler: found wherever hone is installed.
asm(".section .rodata\n"
    ".balign 16\n"
    "hone_jail_begin: .incbin \"" HONE_JAIL_PROGRAM
    "\"\n"
    "hone_jail_end: .byte 0\n"
    ".previous\n");
extern "C" const char hone_jail_begin[], hone_jail_end[];

namespace hone::rewards {
namespace {

constexpr double kHelperGrace = 20;  // seconds beyond the job's own backstop before the helper itself counts as broken

/// A descriptor that is closed at the end of its life.
struct Descriptor {
  int fd = -1;
  explicit Descriptor(int number = -1) : fd(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { reset(); }
  void reset() {
    if (fd >= 0) close(fd);
    fd = -1;
  }
};

constexpr int kAboveHelpers = 16;  // descriptors from here on are not overwritten by those that the helper gets

/// A file in memory that holds the bytes, to be read from its start; -1 with errno.
int memory_file(const char* name, std::string_view bytes) {
  const Descriptor low(memfd_create(name, MFD_CLOEXEC));
  const int fd = fcntl(low.fd, F_DUPFD_CLOEXEC, kAboveHelpers);
  if (fd < 0) return -1;
  size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t size = write(fd, bytes.data() + at, bytes.size() - at);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return close(fd), -1;
    at += static_cast<size_t>(size);
  }
  lseek(fd, 0, SEEK_SET);
  return fd;
}

SandboxResult broken(std::string fault) {
  SandboxResult result;
  result.fault = std::move(fault);
  return result;
}

std::string system_word() { return std::system_category().message(errno); }

/// The helper as a file that can be started; kept for the life of the process.
int helper_file() {
  static const int fd = memory_file("hone-sandbox", {hone_jail_begin, static_cast<size_t>(hone_jail_end - hone_jail_begin)});
  return fd;
}

/// The process, or -1 with errno.
pid_t start_helper(int job_fd, int result_fd) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  const std::string quiet = "/dev/null";
  posix_spawn_file_actions_addopen(&files, 0, quiet.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, quiet.c_str(), O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  posix_spawn_file_actions_adddup2(&files, job_fd, kJobFd);
  posix_spawn_file_actions_adddup2(&files, result_fd, kResultFd);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string path = "/proc/self/fd/" + std::to_string(helper_file()), name = "hone-sandbox";
  char* argv[] = {name.data(), nullptr};
  char* environment[] = {nullptr};
  pid_t pid = -1;
  const int error = posix_spawn(&pid, path.c_str(), &files, &attributes, argv, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  errno = error;
  return error == 0 ? pid : -1;
}

/// Everything that is written to `fd` until its end or the deadline (of monotonic_seconds).
std::string read_until(int fd, double deadline) {
  std::string bytes;
  char block[16384];
  for (;;) {
    const double left = deadline - monotonic_seconds();
    if (left <= 0) return bytes;
    pollfd one{fd, POLLIN, 0};
    if (poll(&one, 1, static_cast<int>(std::min(left * 1000 + 1, 60000.0))) <= 0) continue;
    const ssize_t size = read(fd, block, sizeof block);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return bytes;
    bytes.append(block, static_cast<size_t>(size));
  }
}

std::string find_isolation_fault() {
  SandboxJob job;
  job.argv = {"/bin/true"};
  job.visible = system_folders();
  job.folder = "/program";
  job.file_name = "nothing";
  const SandboxResult result = run_sandboxed(job);
  if (result.ended == Ended::exited && result.status == 0) return {};
  return result.fault.empty() ? "a program in the sandbox does not end as it should" : result.fault;
}

}  // namespace

SandboxResult run_sandboxed(const SandboxJob& job) {
  WireWriter writer;
  exchange_job(writer, job);
  if (helper_file() < 0) return broken("cannot hold the sandbox's helper in memory: " + system_word());
  const Descriptor job_file(memory_file("job", writer.bytes()));
  int ends[2] = {-1, -1};
  if (job_file.fd < 0 || pipe2(ends, O_CLOEXEC) != 0) return broken("cannot start the sandbox's helper: " + system_word());
  const Descriptor read_end(ends[0]);
  Descriptor low_end(ends[1]), write_end(fcntl(low_end.fd, F_DUPFD_CLOEXEC, kAboveHelpers));
  low_end.reset();
  const pid_t pid = write_end.fd < 0 ? -1 : start_helper(job_file.fd, write_end.fd);
  if (pid < 0) return broken("cannot start the sandbox's helper: " + system_word());
  write_end.reset();
  const std::string bytes = read_until(read_end.fd, monotonic_seconds() + job.wall_limit + kHelperGrace);
  kill(pid, SIGKILL);  // it has ended, or hangs; what it started dies with it
  while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  SandboxResult result;
  WireReader reader(bytes);
  exchange_result(reader, result);
  return reader.good() ? result : broken("the sandbox's helper ended without an answer");
}

const std::string& isolation_fault() {
  static const std::string fault = find_isolation_fault();
  return fault;
}

std::vector<std::string> system_folders() {
  return {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime"};
}

ScratchFolder::ScratchFolder() {
  path_ = (std::filesystem::temp_directory_path() / "hone-code-XXXXXX").string();
  if (mkdtemp(path_.data()) == nullptr) fail_resource("{}: cannot make a folder for a program to run in: {}", path_, system_word());
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace hone::rewards
