// What a tree of processes uses, out of /proc as the supervisor sees it.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "hone/rewards/jail/jail.h"

namespace hone::jail {
namespace {

/// The start of a small file; empty where it is gone.
std::string read_small(const std::string& path) {
  char bytes[4096];
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  const ssize_t size = read(fd, bytes, sizeof bytes);
  close(fd);
  return size > 0 ? std::string(bytes, static_cast<size_t>(size)) : std::string();
}

/// The fields of /proc/PID/stat from the third on (the second is a name that may hold anything up to the last parenthesis).
bool parse_stat(const std::string& text, char& state, unsigned long long (&times)[4]) {
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return false;
  return sscanf(text.c_str() + name_end + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu", &state, &times[0], &times[1],
                &times[2], &times[3]) == 5;
}

/// Calls visit(path of the thread's folder) for each thread of a process.
template <class Visit>
void each_thread(const std::string& process, Visit visit) {
  const std::string tasks = process + "/task";
  DIR* folder = opendir(tasks.c_str());
  if (folder == nullptr) return;
  while (const dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') visit(tasks + "/" + entry->d_name);
  }
  closedir(folder);
}

constexpr int kDeepest = 64;  // more processes in a row than may exist in a sandbox

template <class Visit>
void each_below(pid_t root, int depth, Visit visit) {
  if (depth > kDeepest) return;
  each_thread("/proc/" + std::to_string(root), [&](const std::string& thread) {
    const std::string children = read_small(thread + "/children");
    const char* at = children.c_str();
    for (;;) {
      char* end = nullptr;
      const long pid = strtol(at, &end, 10);
      if (end == at) break;
      at = end;
      visit(static_cast<pid_t>(pid));
      each_below(static_cast<pid_t>(pid), depth + 1, visit);
    }
  });
}

void add_process(pid_t pid, bool count_itself, Usage& usage) {
  const std::string process = "/proc/" + std::to_string(pid);
  static const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  static const int64_t page = sysconf(_SC_PAGESIZE);
  char state = 0;
  unsigned long long times[4] = {};
  if (!parse_stat(read_small(process + "/stat"), state, times)) return;
  // Its own time, and that of children it has waited for.
  if (count_itself) usage.cpu_seconds += static_cast<double>(times[0] + times[1]) / ticks;
  usage.cpu_seconds += static_cast<double>(times[2] + times[3]) / ticks;
  if (state == 'Z') return;
  if (count_itself) usage.address_space += page * strtoll(read_small(process + "/statm").c_str(), nullptr, 10);
  each_thread(process, [&](const std::string& thread) {
    if (parse_stat(read_small(thread + "/stat"), state, times) && (state == 'R' || state == 'D')) usage.runnable = true;
  });
}

}  // namespace

Usage measure(pid_t root) {
  Usage usage;
  add_process(root, false, usage);
  each_below(root, 0, [&](pid_t pid) { add_process(pid, true, usage); });
  return usage;
}

void kill_below(pid_t root) {
  for (int round = 0; round < 1000; ++round) {
    int found = 0;
    each_below(root, 0, [&](pid_t pid) {
      ++found;
      kill(pid, SIGKILL);
    });
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    if (found == 0) return;
    usleep(1000);
  }
}

}  // namespace hone::jail
