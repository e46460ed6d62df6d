#pragma once
// What the library has to say while it works. It never prints: events go to one sink, which the application sets.
#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace hone {

enum class LogKind { info, warning, progress };

struct LogEvent {
  LogKind kind = LogKind::info;
  std::string text;         // one message, or the name of the work in progress ("tokenising train.jsonl")
  int64_t done = 0;         // progress only: units of work done
  int64_t total = 0;        // progress only: 0 when not known
  std::string_view unit{};  // progress only: "rows", "MiB"; a literal
};

using LogSink = std::function<void(const LogEvent&)>;

/// Sets where events go and returns the sink before; an empty sink drops them (the start state). Calls of the sink never overlap.
/// The sink must not throw and must not log.
LogSink set_log_sink(LogSink sink);

void emit(const LogEvent& event);

template <class... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  emit({LogKind::info, fmt::format(text, std::forward<Args>(args)...)});
}

template <class... Args>
void log_warning(fmt::format_string<Args...> text, Args&&... args) {
  emit({LogKind::warning, fmt::format(text, std::forward<Args>(args)...)});
}

/// Reports `done` of `total` units; the sink decides how often to show it.
void log_progress(std::string_view work, int64_t done, int64_t total, std::string_view unit);

}  // namespace hone
