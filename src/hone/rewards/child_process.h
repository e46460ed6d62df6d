#pragma once
// A child that speaks lines: requests to its standard input, answers from its standard output, and what it says on standard error kept for the
// message when it fails. It has a session of its own, so that it is killed with all that it started and does not get the terminal's Ctrl-C.
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hone::rewards {

constexpr size_t kLongestAnswer = size_t{16} << 20;  // bytes of a line; a longer one ends the child
constexpr size_t kErrorKept = 4096;                  // bytes of standard error, the last ones

class ChildProcess {
 public:
  /// argv[0] is looked for in PATH. Nothing is started yet.
  explicit ChildProcess(std::vector<std::string> argv) : argv_(std::move(argv)) {}
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;
  /// Kills the child and its group.
  ~ChildProcess();

  bool running() const { return pid_ > 0; }
  /// Starts it; what went wrong, or empty.
  std::string start();
  /// Kills it with its group, and waits for it. `running` is false afterwards.
  void stop();

  enum class End { done, ended, timed_out, too_long };
  /// What a line was to who reads it: nothing, a part of what is waited for, the last of it.
  enum class Line { idle, part, last };
  using OnLine = std::function<Line(std::string_view line)>;
  /// Writes `request` while it reads lines; each goes to on_line. Ends with `done` after the last one, with `ended` when the child closes its
  /// output (it is stopped), with `timed_out` after `seconds` without a line that was part of what is waited for (it is not stopped).
  End exchange(std::string_view request, double seconds, const OnLine& on_line);

  /// How the last child ended ("ended with status 1", "was killed by signal 9"); empty while it runs.
  const std::string& end_text() const { return end_text_; }
  /// The last line of its standard error that is not blank, at most 200 bytes; empty where there is none.
  std::string error_line() const;

 private:
  /// The most that one of the whole lines received so far was; none behind the last one is looked at.
  Line take_lines(const OnLine& on_line);
  void take_error();

  std::vector<std::string> argv_;
  int pid_ = -1, input_ = -1, output_ = -1, error_ = -1;
  std::string received_, error_text_, end_text_;
  size_t searched_ = 0;  // bytes of received_ that hold no end of a line
};

/// The command `argv`, run to its end with nothing on its input: its output, or empty with `fault` set.
std::string output_of(const std::vector<std::string>& argv, double seconds, std::string& fault);

}  // namespace hone::rewards
