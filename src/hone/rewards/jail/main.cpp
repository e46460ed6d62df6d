// The supervisor: starts the sandbox, gathers what comes out of it, measures, and kills when a limit is passed.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "hone/rewards/jail/jail.h"

namespace hone::jail {

bool Pipe::open(int flags) {
  int ends[2];
  if (pipe2(ends, flags | O_CLOEXEC) != 0) return false;
  read = ends[0];
  write = ends[1];
  return true;
}
void Pipe::close_read() {
  if (read >= 0) close(read);
  read = -1;
}
void Pipe::close_write() {
  if (write >= 0) close(write);
  write = -1;
}

namespace {

using rewards::Ended;

double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// The first and the last bytes of a stream of any length.
struct Kept {
  std::string head, tail;
  size_t dropped = 0;
  void add(const char* bytes, size_t size) {
    const size_t first = std::min(size, rewards::kOutputKept - head.size());
    head.append(bytes, first);
    tail.append(bytes + first, size - first);
    if (tail.size() > rewards::kOutputKept) {
      dropped += tail.size() - rewards::kOutputKept;
      tail.erase(0, tail.size() - rewards::kOutputKept);
    }
  }
  std::string text() const { return head + (dropped > 0 ? "\n[" + std::to_string(dropped) + " bytes left out]\n" : std::string()) + tail; }
};

struct Supervisor {
  explicit Supervisor(const SandboxJob& one) : job(one) {}
  const SandboxJob& job;
  Pipes pipes;
  pid_t init = -1;
  Kept output;
  SandboxResult result;
  Status status;
  bool has_status = false;
  size_t key_sent = 0;
  double start = now(), measured = start, idle = 0;

  bool start_init();
  void pump(int wait_ms);
  bool over_limit();
  void finish(bool killed);
};

bool Supervisor::start_init() {
  if (!pipes.output.open(0) || !pipes.report.open(0) || !pipes.key.open(0) || !pipes.go.open(0) || !pipes.status.open(0)) {
    result.fault = std::string("cannot make pipes: ") + strerror(errno);
    return false;
  }
  // As root, many runs at a time: each has a user of its own, out of a range that no system hands out.
  const bool root = geteuid() == 0;
  Identity identity{root, root ? 0x40000000u + (static_cast<unsigned>(getpid()) & 0xffffffu) : geteuid(), getegid()};
  const unsigned long common = SIGCHLD | (job.isolated ? CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS : 0);
  init = identity.root || !job.isolated ? static_cast<pid_t>(syscall(SYS_clone, common, nullptr, nullptr, nullptr, nullptr)) : -1;
  if (init < 0) {  // not root, or root without the right to make namespaces: then through a user namespace
    identity = {false, geteuid(), getegid()};
    init = static_cast<pid_t>(syscall(SYS_clone, common | CLONE_NEWUSER, nullptr, nullptr, nullptr, nullptr));
  }
  if (init == 0) run_init(job, pipes, identity);
  if (init < 0) {
    result.ended = Ended::no_isolation;
    result.fault = std::string("cannot make namespaces for the sandbox: ") + strerror(errno);
    return false;
  }
  pipes.output.close_write();
  pipes.report.close_write();
  pipes.key.close_read();
  pipes.go.close_read();
  pipes.status.close_write();
  for (const int fd : {pipes.output.read, pipes.report.read, pipes.key.write, pipes.status.read}) fcntl(fd, F_SETFL, O_NONBLOCK);
  return write(pipes.go.write, "g", 1) == 1;
}

/// Moves what can be moved now, waiting at most `wait_ms` for something to move.
void Supervisor::pump(int wait_ms) {
  pollfd fds[4] = {{pipes.output.read, POLLIN, 0}, {pipes.report.read, POLLIN, 0}, {pipes.status.read, POLLIN, 0}, {pipes.key.write, POLLOUT, 0}};
  if (poll(fds, 4, wait_ms) <= 0) return;
  char bytes[65536];
  if (fds[0].revents != 0) {
    const ssize_t size = read(pipes.output.read, bytes, sizeof bytes);
    if (size > 0) output.add(bytes, static_cast<size_t>(size));
    if (size == 0) pipes.output.close_read();
  }
  if (fds[1].revents != 0) {
    const ssize_t size = read(pipes.report.read, bytes, sizeof bytes);
    if (size > 0) result.report.append(bytes, std::min(static_cast<size_t>(size), rewards::kReportKept - result.report.size()));
    if (size == 0 || result.report.size() == rewards::kReportKept) pipes.report.close_read();  // no report is so long
  }
  if (fds[2].revents != 0) {
    if (read(pipes.status.read, &status, sizeof status) == static_cast<ssize_t>(sizeof status)) has_status = true;
    pipes.status.close_read();
  }
  if (fds[3].revents != 0) {
    const ssize_t size = write(pipes.key.write, job.key.data() + key_sent, job.key.size() - key_sent);
    if (size > 0) key_sent += static_cast<size_t>(size);
    if (key_sent == job.key.size() || (size < 0 && errno != EAGAIN)) pipes.key.close_write();
  }
}

/// Whether a limit was passed; result.ended then says which.
bool Supervisor::over_limit() {
  const Usage usage = measure(init);
  const double time = now();
  if (!usage.runnable && usage.cpu_seconds <= result.cpu_seconds) idle += time - measured;
  measured = time;
  result.cpu_seconds = std::max(result.cpu_seconds, usage.cpu_seconds);
  if (usage.cpu_seconds >= job.cpu_limit) {
    result.ended = Ended::cpu_limit;
  } else if (usage.address_space > job.memory_limit + rewards::kGroupSlack) {
    result.ended = Ended::memory_limit;
  } else if (idle >= job.idle_limit) {
    result.ended = Ended::idle_limit;
  } else if (time - start >= job.wall_limit) {
    result.ended = Ended::wall_limit;
  } else {
    return false;
  }
  return true;
}

/// After the end of process 1: the last bytes, and what the end was.
void Supervisor::finish(bool killed) {
  for (int rounds = 0; rounds < 64 && (pipes.output.read >= 0 || pipes.report.read >= 0 || pipes.status.read >= 0); ++rounds) pump(0);
  result.output = output.text();
  if (killed) return;
  if (!has_status) {
    result.fault = "the sandbox's first process was killed from outside";
  } else if (status.kind != Status::ended) {
    status.text[sizeof status.text - 1] = 0;
    result.ended = status.kind == Status::no_isolation ? Ended::no_isolation : Ended::internal_fault;
    result.fault = status.text;
  } else if (WIFEXITED(status.wait_status)) {
    result.ended = Ended::exited;
    result.status = WEXITSTATUS(status.wait_status);
  } else {
    result.status = WTERMSIG(status.wait_status);
    // The kernel's own count of one process (rlimit) may come first.
    const bool out_of_time = result.status == SIGXCPU || (result.status == SIGKILL && result.cpu_seconds >= job.cpu_limit);
    result.ended = out_of_time ? Ended::cpu_limit : Ended::signalled;
  }
}

void supervise(Supervisor& run) {
  if (!run.start_init()) return;
  bool killed = false;
  double next = now() + 0.02;
  for (;;) {
    int wait_status = 0;
    const pid_t ended = waitpid(run.init, &wait_status, WNOHANG);
    if (ended == run.init || (ended < 0 && errno == ECHILD)) break;  // kill_below may have waited for it
    run.pump(run.has_status ? 1 : 10);
    if (killed || now() < next) continue;
    next = now() + 0.02;
    if (!run.over_limit()) continue;
    killed = true;
    kill(run.init, SIGKILL);
    if (!run.job.isolated) kill_below(getpid());
  }
  if (!run.job.isolated) kill_below(getpid());
  run.finish(killed);
}

std::string read_all(int fd) {
  std::string text;
  char bytes[65536];
  for (;;) {
    const ssize_t size = read(fd, bytes, sizeof bytes);
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return text;
    text.append(bytes, static_cast<size_t>(size));
  }
}

}  // namespace

int run_jail() {
  setsid();  // the terminal's Ctrl-C is hone's to handle
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_IGN);
  close_range(rewards::kResultFd + 1, ~0u, 0);
  SandboxJob job;
  const std::string bytes = read_all(rewards::kJobFd);
  close(rewards::kJobFd);
  rewards::WireReader reader(bytes);
  rewards::exchange_job(reader, job);
  if (!reader.good() || job.argv.empty()) return 1;
  fcntl(rewards::kResultFd, F_SETFD, FD_CLOEXEC);
  if (!job.isolated) prctl(PR_SET_CHILD_SUBREAPER, 1);
  Supervisor run(job);
  supervise(run);
  rewards::WireWriter writer;
  rewards::exchange_result(writer, run.result);
  const std::string& out = writer.bytes();
  return write(rewards::kResultFd, out.data(), out.size()) == static_cast<ssize_t>(out.size()) ? 0 : 1;
}

}  // namespace hone::jail

int main() { return hone::jail::run_jail(); }
