#include "console.h"

#include <unistd.h>

#include <cstdio>
#include <string>

#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/base/process.h"

namespace hone::app {
namespace {

constexpr double kRedraw = 0.2;       // seconds between two drawings of the line on a terminal
constexpr double kPlainEvery = 10.0;  // seconds between two plain lines elsewhere

struct Console {
  bool stdout_is_result = false;
  bool terminal = false;
  bool drawing = false;
  double last = monotonic_seconds();  // of the last drawing

  void end_line() {
    if (drawing) std::fputs("\r\033[K", stdout);
    drawing = false;
  }

  void show(const LogEvent& event) {
    if (event.kind == LogKind::warning) {
      end_line();
      std::fflush(stdout);
      fmt::print(stderr, "hone: warning: {}\n", event.text);
      return;
    }
    if (stdout_is_result) return;
    if (event.kind == LogKind::info) {
      end_line();
      fmt::print("{}\n", event.text);
    } else {
      progress(event);
    }
    std::fflush(stdout);
  }

  void progress(const LogEvent& event) {
    const double now = monotonic_seconds();
    const bool finished = event.total > 0 && event.done >= event.total;
    // Work that is over before its first drawing needs no line.
    if (now - last < (terminal ? kRedraw : kPlainEvery) && !(finished && drawing)) return;
    last = now;
    const std::string count = event.total > 0 ? fmt::format("{}/{}", event.done, event.total) : fmt::format("{}", event.done);
    const std::string line = fmt::format("{} {}  {}", count, event.unit, event.text);
    if (!terminal) {
      fmt::print("{}\n", line);
    } else {
      fmt::print("\r\033[K{}", line);
      drawing = true;
      if (finished) {
        std::fputs("\n", stdout);
        drawing = false;
      }
    }
  }
};

Console& console() {
  static Console instance;
  return instance;
}

}  // namespace

void install_console(bool stdout_is_result) {
  console().stdout_is_result = stdout_is_result;
  console().terminal = isatty(STDOUT_FILENO) == 1;
  set_log_sink([](const LogEvent& event) { console().show(event); });
}

void print_result(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) fail_resource("standard output: writing failed");
}

void notice(const std::string& text) {
  if (!console().stdout_is_result) return log_info("{}", text);
  console().end_line();
  fmt::print(stderr, "hone: {}\n", text);
}

std::string size_text(int64_t bytes) {
  constexpr int64_t kKiB = 1024, kMiB = 1024 * kKiB;
  return bytes < kMiB ? fmt::format("{} KiB", (bytes + kKiB - 1) / kKiB) : fmt::format("{:.1f} MiB", static_cast<double>(bytes) / kMiB);
}

void end_progress_line() {
  console().end_line();
  std::fflush(stdout);
}

}  // namespace hone::app
