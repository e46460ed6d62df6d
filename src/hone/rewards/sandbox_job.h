#pragma once
// What the sandbox's helper program is told and what it answers. Shared by the library and by the helper (jail/), which is linked to nothing else.
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hone::rewards {

/// One program to run once. Times are seconds.
struct SandboxJob {
  std::vector<std::string> argv;         // argv[0] is a path
  std::vector<std::string> environment;  // NAME=value; nothing else is inherited
  std::vector<std::string> visible;      // host paths that the program may read, at the same place
  std::string folder;                // where the program's file stands, read-only to it; unsandboxed: an existing host folder, also the working one
  std::string file_name, file_text;  // the file that is run
  bool read_once = false;            // the file gives file_text to its first reader and shows `shown_text` to every later one
  std::string shown_text;
  std::string key;                            // bytes that the program finds on key_fd
  int32_t key_fd = -1;                        // descriptors inside the program; -1: none
  int32_t report_fd = -1;                     // what it writes there comes back
  double cpu_limit = 10;                      // of all its processes together
  double idle_limit = 5;                      // in which no process of it was runnable, added up
  double wall_limit = 120;                    // the backstop
  int64_t memory_limit = int64_t{512} << 20;  // bytes of address space: of a process, and (with kGroupSlack more) of all together
  int64_t scratch_limit = int64_t{64} << 20;  // bytes of a file, and of /tmp
  int32_t processes = 32;                     // processes and threads
  int32_t open_files = 256;
  bool isolated = true;
};

/// Address space that the processes of one program may have together beyond the limit of a single one: a shell, a compiler's driver.
constexpr int64_t kGroupSlack = int64_t{256} << 20;

enum class Ended : int32_t {
  exited,         // `status` is the exit status
  signalled,      // `status` is the signal
  cpu_limit,      // processor time ran out
  idle_limit,     // it slept
  wall_limit,     // the backstop
  memory_limit,   // its processes together held too much
  no_isolation,   // `fault` says what is missing on this machine; nothing was run
  internal_fault  // `fault` says what broke around the program
};

struct SandboxResult {
  Ended ended = Ended::internal_fault;
  int32_t status = 0;
  double cpu_seconds = 0;
  std::string output;  // of standard output and error: at most the first and the last kOutputKept bytes
  std::string report;  // of report_fd, at most kReportKept bytes
  std::string fault;
};
constexpr size_t kOutputKept = 2048;
constexpr size_t kReportKept = 256;

/// Bytes in a fixed order: both ends are built from this one file, so no version and no byte order are needed.
class WireWriter {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view value) {
    number<uint64_t>(value.size());
    bytes_.append(value);
  }
  void texts(const std::vector<std::string>& values) {
    number<uint64_t>(values.size());
    for (const std::string& value : values) text(value);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// Reads what WireWriter wrote; `good()` is false after bytes that end early.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : rest_(bytes) {}
  template <class T>
  void number(T& value) {
    if (rest_.size() < sizeof value) return void(good_ = false);
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
  }
  void text(std::string& value) {
    uint64_t size = 0;
    number(size);
    if (!good_ || rest_.size() < size) return void(good_ = false);
    value.assign(rest_.substr(0, size));
    rest_.remove_prefix(size);
  }
  void texts(std::vector<std::string>& values) {
    uint64_t count = 0;
    number(count);
    if (count > rest_.size()) good_ = false;
    for (uint64_t i = 0; good_ && i < count; ++i) text(values.emplace_back());
  }
  bool good() const { return good_; }

 private:
  std::string_view rest_;
  bool good_ = true;
};

/// One list of members for both directions: `wire` is a WireWriter with a const job, or a WireReader.
template <class Wire, class Job>
void exchange_job(Wire& wire, Job& job) {
  wire.texts(job.argv);
  wire.texts(job.environment);
  wire.texts(job.visible);
  wire.text(job.folder);
  wire.text(job.file_name);
  wire.text(job.file_text);
  wire.number(job.read_once);
  wire.text(job.shown_text);
  wire.text(job.key);
  wire.number(job.key_fd);
  wire.number(job.report_fd);
  wire.number(job.cpu_limit);
  wire.number(job.idle_limit);
  wire.number(job.wall_limit);
  wire.number(job.memory_limit);
  wire.number(job.scratch_limit);
  wire.number(job.processes);
  wire.number(job.open_files);
  wire.number(job.isolated);
}

template <class Wire, class Result>
void exchange_result(Wire& wire, Result& result) {
  wire.number(result.ended);
  wire.number(result.status);
  wire.number(result.cpu_seconds);
  wire.text(result.output);
  wire.text(result.report);
  wire.text(result.fault);
}

// Descriptors of the helper at its start.
constexpr int kJobFd = 3;     // the job's bytes, to be read to their end
constexpr int kResultFd = 4;  // the result's bytes

}  // namespace hone::rewards
