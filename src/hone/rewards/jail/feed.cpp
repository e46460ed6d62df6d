// The program's file. Where it holds what the program must not read again (its tests), it is a pipe with a name: the interpreter gets the text
// from it once, and by the time that the text is there, the name already stands for an ordinary file that shows the program's own part.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hone/rewards/jail/jail.h"

namespace hone::jail {
namespace {

constexpr const char* kShownName = ".shown";

bool write_file(int folder_fd, const char* name, const std::string& text) {
  const int fd = openat(folder_fd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  size_t at = 0;
  while (at < text.size()) {
    const ssize_t size = write(fd, text.data() + at, text.size() - at);
    if (size <= 0) break;
    at += static_cast<size_t>(size);
  }
  close(fd);
  return at == text.size();
}

}  // namespace

void place_file(const SandboxJob& job, int folder_fd, const Pipes& pipes) {
  umask(022);
  const bool done = job.read_once ? write_file(folder_fd, kShownName, job.shown_text) && mkfifoat(folder_fd, job.file_name.c_str(), 0644) == 0
                                  : write_file(folder_fd, job.file_name.c_str(), job.file_text);
  if (!done) give_up(pipes, Status::fault, "write the program's file");
}

int feed_and_wait(const SandboxJob& job, int folder_fd, pid_t program) {
  int fd = -1, waits = 0;
  size_t at = 0;
  bool feeding = job.read_once;
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(-1, &status, feeding ? WNOHANG : 0);  // any child: orphans come to process 1
    if (ended == program) return status;
    if (ended < 0 && errno != EINTR) return -1;
    if (ended != 0 || !feeding) continue;
    if (fd < 0) {
      fd = openat(folder_fd, job.file_name.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
      if (fd < 0) {
        usleep(++waits < 200 ? 500 : 5000);  // nobody reads yet
        continue;
      }
      feeding = renameat(folder_fd, kShownName, folder_fd, job.file_name.c_str()) == 0;
    }
    const ssize_t size = feeding ? write(fd, job.file_text.data() + at, job.file_text.size() - at) : -1;
    if (size > 0) at += static_cast<size_t>(size);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) {
      pollfd wait{fd, POLLOUT, 0};
      poll(&wait, 1, 5);
    } else if (size < 0 || at == job.file_text.size()) {
      close(fd);
      feeding = false;
    }
  }
}

}  // namespace hone::jail
