#pragma once
// A training run on a golden model in a temporary folder, through the real loop.
#include <filesystem>
#include <optional>

#include "hone/train/loop.h"
#include "hone/train/machine.h"
#include "support/golden_model.h"

namespace hone::test {

/// A folder that is removed at the end.
struct TemporaryRun {
  std::filesystem::path path;
  TemporaryRun() {
    std::string name = (std::filesystem::temp_directory_path() / "hone-test-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    path = name;
  }
  ~TemporaryRun() { std::filesystem::remove_all(path); }
};

inline config::RunConfig small_config(int64_t steps) {
  config::RunConfig c;
  c.max_steps = steps;
  c.batch_size = 4;
  c.logging_steps = 1;
  c.save_steps = 0;
  c.learning_rate = 5e-3;
  return c;
}

struct JobOptions {
  ops::Backend backend = ops::Backend::kernels;
  int64_t micro_batch_tokens = 1024;
  bool checkpointing = false;
  int64_t checkpoint_above = train::MemoryPlan::kNever;
  const methods::Method* eval = nullptr;
  std::optional<adapters::LoraConfig> lora = std::nullopt;  // train an adapter
  std::optional<model::Quantisation> quantisation = std::nullopt;
};

struct JobOutcome {
  train::TrainResult result;
  std::vector<float> weights;        // of what was trained
  bool base_unchanged = true;        // with an adapter: every byte of the base is as it was loaded
  std::vector<train::Json> metrics;  // the lines of metrics.jsonl
};

inline JobOutcome run_job(const std::string& model_folder, const methods::Method& method, const config::RunConfig& config,
                          const std::filesystem::path& run, const JobOptions& options = {}) {
  const auto source = model::open_model(golden::golden_path(model_folder).string());
  const auto model = model::load_model(*source, options.backend, at::kCPU, 64, options.quantisation);
  const std::vector<float> base = all_values(*model);
  std::unique_ptr<adapters::Adapter> adapter;
  if (options.lora) adapter = adapters::create_adapter(*model, *source, *options.lora, static_cast<uint64_t>(config.seed));
  train::TrainJob job;
  job.config = &config;
  job.model = model.get();
  job.adapter = adapter.get();
  job.method = &method;
  job.eval_method = options.eval;
  job.run = run;
  job.micro_batch_tokens = options.micro_batch_tokens;
  job.checkpointing = options.checkpointing;
  job.checkpoint_above = options.checkpoint_above;
  job.identity = {{"learning_rate", config.learning_rate}, {"seed", config.seed}};
  job.save_model = [](const std::filesystem::path& folder) { std::filesystem::create_directories(folder); };
  JobOutcome out;
  out.result = train::train(job);
  out.weights = adapter ? all_values(*adapter) : all_values(*model);
  out.base_unchanged = !adapter || all_values(*model) == base;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);) out.metrics.push_back(train::Json::parse(line));
  return out;
}

/// What of a metrics line must not depend on how the work was split: everything but times and memory.
inline train::Json exact_part(train::Json line) {
  const train::Json whole = line;
  for (const auto& [key, value] : whole.items())
    if (key == "step_time" || key == "tokens_per_second" || key == "eval_runtime" || key.find("memory") != std::string::npos) line.erase(key);
  return line;
}

/// The rows of tests/golden/trl_sft/rows.jsonl.
inline RowSet trl_rows() {
  RowSet rows;
  std::ifstream in(golden::golden_path("trl_sft/rows.jsonl"));
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    std::vector<float> weights;
    for (const int label : json.at("labels")) weights.push_back(label == -100 ? 0.0f : 1.0f);
    rows.add(json.at("input_ids").get<std::vector<int32_t>>(), weights);
  }
  return rows;
}

}  // namespace hone::test
