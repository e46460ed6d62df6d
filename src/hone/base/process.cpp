#include "hone/base/process.h"

#include <malloc.h>

#include <chrono>
#include <fstream>
#include <string>
#include <string_view>

namespace hone {
namespace {

/// A field of /proc/self/status, which gives memory in KiB.
double status_mib(std::string_view field) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.size() > field.size() && line.compare(0, field.size(), field) == 0 && line[field.size()] == ':')
      return std::stod(line.substr(field.size() + 1)) / 1024.0;
  }
  return 0;
}

}  // namespace

double peak_rss_mib() { return status_mib("VmHWM"); }

void reset_peak_rss() {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // proc(5): resets VmHWM
}

double current_rss_mib() { return status_mib("VmRSS"); }

double monotonic_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace hone
