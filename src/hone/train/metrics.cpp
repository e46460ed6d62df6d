#include "hone/train/metrics.h"

#include <algorithm>

#include "hone/base/process.h"

namespace hone::train {

MetricsWriter::MetricsWriter(const std::filesystem::path& path, int64_t last_step) {
  if (std::filesystem::exists(path)) {
    const std::string text = read_text(path);
    std::string kept;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = text.find('\n', begin);
      if (end == std::string::npos) break;
      const Json line = Json::parse(text.begin() + begin, text.begin() + end, nullptr, /*allow_exceptions=*/false);
      if (line.is_object() && line.value("step", int64_t{0}) <= last_step) kept.append(text, begin, end - begin + 1);
      begin = end + 1;
    }
    if (kept != text) write_atomic(path, kept);
  }
  file_ = std::make_unique<FileWriter>(path, /*append=*/true);
}

void MetricsWriter::write(const Json& line) {
  file_->write(line.dump() + "\n");
  file_->flush();
}

void MetricsWriter::close() { file_->close(); }

void add_memory(Json& line, const MemoryParts& parts) {
  const double peak = peak_rss_mib();
  line["peak_memory_mib"] = peak;
  line["memory_mib/weights"] = parts.weights;
  line["memory_mib/adapters"] = parts.adapters;
  line["memory_mib/optimizer"] = parts.optimizer;
  line["memory_mib/activations"] = parts.activations;
  line["memory_mib/other"] = std::max(0.0, peak - parts.weights - parts.adapters - parts.optimizer - parts.activations);
}

}  // namespace hone::train
