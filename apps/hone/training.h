#pragma once
// The training command that every technique shares: machine, model, run folder, data, memory plan, run.yaml, the loop, summary. A technique
// is the few lines that say what its rows are and which method learns from them.
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "commands.h"
#include "hone/base/error.h"
#include "hone/methods/on_policy.h"
#include "hone/model/decoder.h"
#include "hone/train/metrics.h"
#include "hone/train/rollout_source.h"
#include "hone/train/sft_data.h"

namespace hone::train {
struct TrainJob;
struct Machine;
}  // namespace hone::train

namespace hone::app {

/// A data set as a method over its rows.
struct Task {
  std::shared_ptr<const void> data;  // what the method's rows point into
  std::unique_ptr<methods::Method> method;
  std::string description;  // for people
  std::string cache_key;
  int64_t rows_read = 0;
  int64_t longest = 0;  // tokens of the longest sequence
};

/// The task of loaded data; the caller adds the method.
template <class Data>
Task task_of(const std::shared_ptr<const Data>& data, const config::RunConfig& config) {
  return {data, nullptr, describe(*data, config), data->cache_key, data->rows_read, data->longest};
}

struct OnPolicy;
struct OpenedModel;

/// What the roles beside the policy are made from.
struct RoleInputs {
  const config::RunConfig& config;
  const OpenedModel& opened;
  const train::Machine& machine;
  OnPolicy& policy;
  int64_t longest = 0;  // tokens of the longest sequence
};

/// A technique whose rows are sampled as the run goes on.
struct OnPolicyTechnique {
  std::function<std::unique_ptr<methods::OnPolicyMethod>(const config::RunConfig& config, std::vector<std::string> reward_names)> method;
  std::function<train::RolloutPlan(const config::RunConfig& config)> plan;
  /// What can be wrong with the roles, before anything is loaded. May be empty.
  std::function<void(const config::RunConfig& config, const OpenedModel& opened)> check = {};
  /// Once the policy stands: further models, adapters and passes of the job. What it returns lives as long as the run. May be empty.
  std::function<std::shared_ptr<void>(const RoleInputs& inputs, train::TrainJob& job)> roles = {};
};

struct Technique {
  std::string unit = "rows";                                       // what --batch_size counts
  std::function<Task(const train::RowDataOptions& options)> load;  // reads files into a method
  std::optional<OnPolicyTechnique> on_policy;                      // in place of load
  train::Json options;                                             // its own options, as far as they decide the bits: part of the run's identity
  bool reward_model = false;                                       // a reward head is trained in place of the language-model head
  /// What the run's result is worth on --eval_file, once, at its end: into COMMAND_report.json and summary.json's eval. May be empty.
  std::function<train::Json(model::Model& model, ops::AdapterSet* adapters, const Task& held_out, const config::RunConfig& config)> report;
};

/// What is different where the run is a stage of a longer one.
struct StageOptions {
  bool check_only = false;  // nothing is trained: ends once everything that can be wrong before the weights are read has been looked at
  /// Whether the result of exactly this run stands already; then nothing is trained. May be empty.
  std::function<bool(const train::Json& identity)> stands = {};
};

struct TrainedRun {
  bool kept = false;  // StageOptions::stands
  Exit exit = Exit::ok;
  std::string message;  // why it ended early, or empty
  train::Json identity, summary;
};

/// Trains as `arguments` say, into their output_dir.
TrainedRun train_run(const Arguments& arguments, const Technique& technique, const StageOptions& stage = {});
/// Runs the command of `arguments`; returns the exit code.
int run_training(const Arguments& arguments, const Technique& technique);

/// The techniques that are stages of hone rlhf.
Technique sft_technique();
Technique reward_technique(const config::RunConfig& config);
Technique ppo_technique(const config::RunConfig& config);

}  // namespace hone::app
