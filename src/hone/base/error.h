#pragma once
// Two kinds of error. A user error is one message for a person (what, where, what to do) and carries the exit code of the
// command-line contract. A programmer error is a failed `check`: a defect in hone, exit code 1. The library throws, never prints or exits.
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace hone {

enum class Exit : int {
  ok = 0,
  defect = 1,    // a defect in hone itself
  usage = 2,     // bad usage, configuration or data
  guard = 3,     // stopped by a guard, last good checkpoint kept
  resource = 4,  // memory or disk ran out
  interrupted = 130,
  terminated = 143,
};

class UserError : public std::runtime_error {
 public:
  UserError(Exit code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

class ProgrammerError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// Throws a UserError with exit code 2 (bad usage, configuration or data).
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) {
  throw UserError(Exit::usage, fmt::format(text, std::forward<Args>(args)...));
}

/// Throws a UserError with exit code 4 (memory or disk ran out).
template <class... Args>
[[noreturn]] void fail_resource(fmt::format_string<Args...> text, Args&&... args) {
  throw UserError(Exit::resource, fmt::format(text, std::forward<Args>(args)...));
}

/// Programmer assertion: throws ProgrammerError with the message (give the shapes or values that were seen).
template <class... Args>
void check(bool condition, fmt::format_string<Args...> text, Args&&... args) {
  if (!condition) [[unlikely]]
    throw ProgrammerError(fmt::format(text, std::forward<Args>(args)...));
}

/// The known name nearest to `name` (edit distance; empty when nothing is near enough to be worth suggesting).
std::string nearest_name(std::string_view name, const std::string* begin, const std::string* end);

}  // namespace hone
