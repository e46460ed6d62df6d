#pragma once
// metrics.jsonl: one object a logged step, each step once; summary.json at the end.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "hone/base/files.h"

namespace hone::train {

using Json = nlohmann::ordered_json;

class MetricsWriter {
 public:
  /// Opens run/metrics.jsonl for appending. On resume the lines of steps after `last_step` are removed first (atomically); a last line that
  /// was torn by a kill is removed too.
  MetricsWriter(const std::filesystem::path& path, int64_t last_step);
  /// Appends one line and hands it to the operating system.
  void write(const Json& line);
  void close();

 private:
  std::unique_ptr<FileWriter> file_;
};

/// Memory by part, MiB, under the contract's names; `other` is what the process's high-water mark has beyond the parts.
struct MemoryParts {
  double weights = 0, adapters = 0, optimizer = 0, activations = 0;
};
void add_memory(Json& line, const MemoryParts& parts);

}  // namespace hone::train
