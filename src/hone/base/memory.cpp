#include "hone/base/memory.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone {
namespace {

double number_after(const std::string& text, const std::string& key) {
  const size_t at = text.find(key);
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + key.size(), nullptr);
}

std::string read_small(const char* path) {
  if (!std::filesystem::exists(path)) return {};
  try {
    return read_text(path, 1 << 20);
  } catch (const UserError&) {
    return {};
  }
}

}  // namespace

double available_memory() {
  double bytes = number_after(read_small("/proc/meminfo"), "MemAvailable:") * 1024;
  const std::string limit = read_small("/sys/fs/cgroup/memory.max"), used = read_small("/sys/fs/cgroup/memory.current");
  // Files that were read or written count as used by the group, but give way.
  const std::string stat = read_small("/sys/fs/cgroup/memory.stat");
  const double cache = std::max(0.0, number_after(stat, "\ninactive_file ")) + std::max(0.0, number_after(stat, "\nactive_file "));
  if (!limit.empty() && limit.rfind("max", 0) != 0)
    bytes = std::min(bytes, std::strtod(limit.c_str(), nullptr) - std::strtod(used.c_str(), nullptr) + cache);
  return std::max(0.0, bytes);
}

}  // namespace hone
