// hone doctor: what this machine has, and what is missing for hone to work on it.
#include <sys/utsname.h>
#include <torch/csrc/api/include/torch/version.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"
#include "hone/model/source.h"
#include "hone/rewards/sandbox.h"

namespace hone::app {
namespace {

using nlohmann::ordered_json;

constexpr const char* kDefaultModel = "models/SmolLM2-135M-Instruct.gguf";

/// The value of `key` in a file of `key : value` lines (/proc/cpuinfo, /proc/meminfo); empty when it is not there.
std::string proc_value(const char* file, const std::string& key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, key.size(), key) != 0) continue;
    const size_t value = line.find_first_not_of(" \t", colon + 1);
    if (value != std::string::npos) return line.substr(value);
  }
  return "";
}

double meminfo_gib(const std::string& key) {
  const std::string text = proc_value("/proc/meminfo", key);
  return text.empty() ? 0 : std::strtod(text.c_str(), nullptr) / (1 << 20);
}

/// The memory limit of this control group in GiB; 0 where there is none.
double cgroup_gib() {
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream in(file);
    double bytes = 0;
    if (in >> bytes && bytes > 0 && bytes < 1e15) return bytes / (1 << 30);
  }
  return 0;
}

double rounded(double value) { return std::round(value * 10) / 10; }

std::string system_name() {
  utsname names{};
  return uname(&names) == 0 ? fmt::format("{} {} {}", names.sysname, names.release, names.machine) : "unknown";
}

/// Opens the model; what is wrong with it goes to `missing`.
ordered_json describe_model(const std::string& path, bool named, std::vector<std::string>& missing) {
  ordered_json out = {{"path", path}, {"usable", false}};
  if (!named && !std::filesystem::exists(path)) {
    missing.push_back(fmt::format("the default model {}: make model fetches it (or name one with --model PATH)", path));
    return out;
  }
  try {
    const auto source = model::open_model(path);
    int64_t parameters = 0;
    for (const auto& tensor : source->tensors()) {
      int64_t count = 1;
      for (const int64_t size : tensor.shape) count *= size;
      parameters += count;
    }
    out["usable"] = true;
    out["parameters"] = parameters;
    out["tokenizer"] = source->tokenizer() != nullptr;
    out["chat_template"] = source->tokenizer() != nullptr && !source->tokenizer()->chat_template.empty();
  } catch (const UserError& error) {
    missing.push_back(fmt::format("a usable model: {}", error.what()));
  }
  return out;
}

std::string text_of(const ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (!value.is_array()) return value.dump();
  std::string list;
  for (const auto& item : value) list += (list.empty() ? "" : ", ") + text_of(item);
  return list.empty() ? "none" : list;
}

}  // namespace

int run_doctor(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  std::vector<std::string> missing;
  ordered_json report;
  report["hone"] = HONE_VERSION;
  report["libtorch"] = TORCH_VERSION;
  report["system"] = system_name();
  report["cpu"] = proc_value("/proc/cpuinfo", "model name");
  report["processors"] = std::thread::hardware_concurrency();
  set_threads(0);
  report["threads"] = threads();
  ordered_json isa = ordered_json::array();
  for (const kernels::Isa one : {kernels::Isa::avx2, kernels::Isa::avx512}) {
    if (kernels::isa_available(one)) isa.push_back(kernels::isa_name(one));
  }
  if (isa.empty()) missing.push_back("a CPU with AVX2 and FMA: hone computes on nothing less");
  report["instruction_sets"] = isa;
  report["memory_gib"] = rounded(meminfo_gib("MemTotal"));
  report["memory_available_gib"] = rounded(meminfo_gib("MemAvailable"));
  if (const double limit = cgroup_gib(); limit > 0) report["memory_limit_gib"] = rounded(limit);
  report["disk_free_gib"] = rounded(static_cast<double>(free_bytes(std::filesystem::current_path())) / (1 << 30));
  report["device"] = "cpu, float32";
  const bool named = !config.model_name_or_path.empty();
  report["model"] = describe_model(named ? config.model_name_or_path : kDefaultModel, named, missing);
  const std::string& unsafe = rewards::isolation_fault();
  report["sandbox"] = unsafe.empty();
  if (!unsafe.empty()) missing.push_back(fmt::format("isolation for --reward code: {} (docs/sandbox.md)", unsafe));
  report["missing"] = missing;

  std::string out;
  if (config.format == config::Format::json) {
    out = report.dump() + "\n";
  } else {
    for (const auto& [key, value] : report.items()) {
      if (!value.is_object()) out += fmt::format("{:<22} {}\n", key, text_of(value));
      for (auto item = value.begin(); value.is_object() && item != value.end(); ++item) {
        out += fmt::format("{:<22} {}\n", key + " " + item.key(), text_of(item.value()));
      }
    }
  }
  std::fwrite(out.data(), 1, out.size(), stdout);
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
