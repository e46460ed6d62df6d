#include "hone/base/log.h"

#include <mutex>
#include <utility>

namespace hone {
namespace {

struct Outlet {
  std::mutex mutex;
  LogSink sink;
};

/// Never destroyed: a thread may still log while static objects go away.
Outlet& outlet() {
  static Outlet& instance = *new Outlet;
  return instance;
}

}  // namespace

LogSink set_log_sink(LogSink sink) {
  Outlet& out = outlet();
  const std::lock_guard lock(out.mutex);
  return std::exchange(out.sink, std::move(sink));
}

void emit(const LogEvent& event) {
  Outlet& out = outlet();
  const std::lock_guard lock(out.mutex);
  if (out.sink) out.sink(event);
}

void log_progress(std::string_view work, int64_t done, int64_t total, std::string_view unit) {
  emit({LogKind::progress, std::string(work), done, total, unit});
}

}  // namespace hone
