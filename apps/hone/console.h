#pragma once
// What people see while a command works: log lines, and a progress line where there is a terminal (plain lines where there is none).

#include <cstdint>
#include <string>

namespace hone::app {

/// Sends the library's events to the terminal. `stdout_is_result`: standard output carries rows (filters), so nothing else goes there and
/// only warnings are shown, on standard error.
void install_console(bool stdout_is_result);

/// Writes a result to standard output. UserError (exit 4) when it cannot be written (a full disk).
void print_result(const std::string& text);

/// What people should see whatever the command is: among the log lines, or on standard error where standard output is the result.
void notice(const std::string& text);

/// "12.3 MiB"; below one MiB "45 KiB", rounded up.
std::string size_text(int64_t bytes);

/// Ends a progress line that is being drawn, before a message is printed.
void end_progress_line();

}  // namespace hone::app
