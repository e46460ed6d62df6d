#include "hone/rewards/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <system_error>

#include "hone/base/process.h"

extern char** environ;

namespace hone::rewards {
namespace {

void close_fd(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

/// write, without the signal that ends a process when nobody reads: it is kept off this thread and taken back.
ssize_t write_quietly(int fd, const char* data, size_t size) {
  sigset_t pipe, before;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, &before);
  const ssize_t written = write(fd, data, size);
  const int error = errno;
  if (written < 0 && error == EPIPE) {
    const timespec now{};
    sigtimedwait(&pipe, nullptr, &now);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

struct PipePair {
  int read = -1, write = -1;
  bool open() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    read = ends[0];
    write = ends[1];
    return true;
  }
};

/// 0 and the process, or an error number.
int spawn(const std::vector<std::string>& argv, int input, int output, int error, pid_t& pid) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, input, 0);
  posix_spawn_file_actions_adddup2(&files, output, 1);
  posix_spawn_file_actions_adddup2(&files, error, 2);
  posix_spawn_file_actions_addclosefrom_np(&files, 3);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
  std::vector<char*> pointers;
  for (const std::string& text : argv) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  const int result = posix_spawnp(&pid, pointers[0], &files, &attributes, pointers.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return result;
}

}  // namespace

ChildProcess::~ChildProcess() { stop(); }

std::string ChildProcess::start() {
  stop();
  received_.clear();
  searched_ = 0;
  error_text_.clear();
  end_text_.clear();
  PipePair input, output, error;
  pid_t pid = -1;
  // Above 2, so that no pipe is overwritten while the standard descriptors are placed.
  const bool opened = input.open() && output.open() && error.open();
  const int fault = opened ? spawn(argv_, input.read, output.write, error.write, pid) : errno;
  close_fd(input.read);
  close_fd(output.write);
  close_fd(error.write);
  input_ = input.write;
  output_ = output.read;
  error_ = error.read;
  if (fault != 0) {
    stop();
    return argv_[0] + ": cannot be started: " + std::system_category().message(fault);
  }
  pid_ = pid;
  for (const int fd : {input_, output_, error_}) fcntl(fd, F_SETFL, O_NONBLOCK);
  return {};
}

void ChildProcess::stop() {
  if (pid_ > 0) {
    // It may be about to end by itself: then its own status is what people want to know.
    int status = 0;
    pid_t ended = 0;
    for (int wait = 0; output_ < 0 && ended == 0 && wait < 50; ++wait) {
      ended = waitpid(pid_, &status, WNOHANG);
      if (ended == 0) usleep(1000);
    }
    kill(-pid_, SIGKILL);
    const bool killed = ended == 0;
    while (ended <= 0 && (ended = waitpid(pid_, &status, 0)) < 0 && errno == EINTR) {
    }
    take_error();
    if (WIFEXITED(status)) end_text_ = "ended with status " + std::to_string(WEXITSTATUS(status));
    if (WIFSIGNALED(status)) end_text_ = killed ? "was stopped" : "was killed by signal " + std::to_string(WTERMSIG(status));
  }
  pid_ = -1;
  close_fd(input_);
  close_fd(output_);
  close_fd(error_);
}

/// What has arrived, to on_line line by line; true when that is done.
ChildProcess::Line ChildProcess::take_lines(const OnLine& on_line) {
  size_t begin = 0;
  Line most = Line::idle;
  for (size_t end; most != Line::last && (end = received_.find('\n', searched_)) != std::string::npos; begin = searched_ = end + 1) {
    most = std::max(most, on_line(std::string_view(received_).substr(begin, end - begin)));
  }
  if (most != Line::last) searched_ = received_.size();
  received_.erase(0, begin);
  searched_ -= begin;
  return most;
}

void ChildProcess::take_error() {
  char block[4096];
  // At most so much at a time: a child that floods it must not keep this process from looking at the clock.
  for (int rounds = 0; error_ >= 0 && rounds < 64; ++rounds) {
    const ssize_t size = read(error_, block, sizeof block);
    if (size == 0) close_fd(error_);
    if (size <= 0) return;
    error_text_.append(block, static_cast<size_t>(size));
    if (error_text_.size() > 2 * kErrorKept) error_text_.erase(0, error_text_.size() - kErrorKept);
  }
}

ChildProcess::End ChildProcess::exchange(std::string_view request, double seconds, const OnLine& on_line) {
  if (take_lines(on_line) == Line::last) return End::done;
  size_t sent = 0;
  char block[65536];
  double deadline = monotonic_seconds() + seconds;
  while (running()) {
    const double left = deadline - monotonic_seconds();
    if (left <= 0) return End::timed_out;
    pollfd fds[3] = {{sent < request.size() ? input_ : -1, POLLOUT, 0}, {output_, POLLIN, 0}, {error_, POLLIN, 0}};
    if (poll(fds, 3, static_cast<int>(std::min(left * 1000 + 1, 60000.0))) <= 0) continue;
    if (fds[2].revents != 0) take_error();
    if (fds[0].revents != 0) {
      const ssize_t size = write_quietly(input_, request.data() + sent, request.size() - sent);
      if (size > 0) sent += static_cast<size_t>(size);
      if (size < 0 && errno != EAGAIN && errno != EINTR) sent = request.size();  // nobody reads: its end will show
    }
    if (fds[1].revents == 0) continue;
    const ssize_t size = read(output_, block, sizeof block);
    if (size < 0) continue;
    if (size == 0) {
      close_fd(output_);
      stop();
      return End::ended;
    }
    received_.append(block, static_cast<size_t>(size));
    const Line line = take_lines(on_line);
    if (line == Line::last) return End::done;
    if (line == Line::part) deadline = monotonic_seconds() + seconds;
    if (received_.size() > kLongestAnswer) return End::too_long;
  }
  return End::ended;
}

std::string ChildProcess::error_line() const {
  size_t end = error_text_.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return {};
  const size_t line = error_text_.rfind('\n', end);
  std::string text = error_text_.substr(line == std::string::npos ? 0 : line + 1, end - (line == std::string::npos ? 0 : line + 1) + 1);
  if (text.size() > 200) text.resize(200);
  return text;
}

std::string output_of(const std::vector<std::string>& argv, double seconds, std::string& fault) {
  ChildProcess child(argv);
  fault = child.start();
  if (!fault.empty()) return {};
  std::string text;
  const auto end = child.exchange({}, seconds, [&](std::string_view line) {
    (text += line) += '\n';
    return ChildProcess::Line::part;
  });
  if (end == ChildProcess::End::ended && child.end_text() == "ended with status 0") return text;
  fault = argv[0] + " " + (end == ChildProcess::End::ended ? child.end_text() : "does not end");
  if (const std::string line = child.error_line(); !line.empty()) fault += ": " + line;
  return {};
}

}  // namespace hone::rewards
