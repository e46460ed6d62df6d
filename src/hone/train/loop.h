#pragma once
// The one loop of every technique: rows of a step -> count -> micro-batches -> forward, terms, backward -> norm, clip, guards -> update ->
// metrics, evaluation, checkpoints. On-policy techniques sample their rows first (rollout_source.h).
#include <filesystem>
#include <functional>
#include <limits>
#include <string>

#include "hone/adapters/lora.h"
#include "hone/base/error.h"
#include "hone/config/run_config.h"
#include "hone/methods/method.h"
#include "hone/model/decoder.h"
#include "hone/train/evaluation.h"
#include "hone/train/metrics.h"
#include "hone/train/reference_logprobs.h"
#include "hone/train/rollout_source.h"
#include "hone/train/step.h"

namespace hone::train {

struct TrainJob {
  const config::RunConfig* config = nullptr;
  model::Model* model = nullptr;
  adapters::Adapter* adapter = nullptr;  // what is trained, on the frozen model; null: the model itself
  const methods::Method* method = nullptr;
  std::vector<Pass> more_passes;                                   // of the same rows, after that of `method` (PPO: the value model)
  RolloutSource* rollouts = nullptr;                               // on-policy: where the rows come from; null: they stand in files
  methods::OnPolicyMethod* on_policy = nullptr;                    // on-policy: takes the rollouts; `method` is (a view of) the same
  const methods::Method* eval_method = nullptr;                    // may be null
  std::function<HeldOut()> evaluate;                               // in place of eval_method; may be empty
  ReferenceSource reference;                                       // of a method that is measured against one
  std::filesystem::path run;                                       // output_dir, exists
  int64_t micro_batch_tokens = 1024;                               // resolved
  bool checkpointing = false;                                      // gradient checkpointing, resolved
  int64_t checkpoint_above = std::numeric_limits<int64_t>::max();  // see PassOptions
  int64_t activation_bytes_per_token = 0;                          // for the memory figures
  bool spill_optimizer = false;                                    // its states in a mapped file of the run's folder
  Json identity;                                                   // what must be the same on resume: configuration, data, tokenizer, template, model
  std::function<void(const std::filesystem::path&)> save_model;    // writes the model folder
  std::function<void(bool resumed)> started;                       // called after every check, before the first step; may be empty
  int64_t model_bytes = 0;                                         // of that folder, for the check of disk space

  std::vector<Pass> passes() const;
  int64_t rows() const;   // of the data set
  int64_t steps() const;  // optimizer steps of the run
};

struct TrainResult {
  Exit exit = Exit::ok;  // guard, interrupted and terminated leave a checkpoint behind
  std::string message;   // why it ended early; empty when it ran to its end
  int64_t steps = 0;
  int64_t total_steps = 0;
  Json last_metrics;             // of the last logged step
  std::vector<double> last_kls;  // `kl` of up to ten steps before the model that is kept; empty where it is not measured
  Json last_eval;                // of the last evaluation, null without one
};

/// Runs the job. Bad input and full disks are UserErrors; guards and signals come back as the result's exit code.
TrainResult train(const TrainJob& job);

/// Total optimizer steps of a run: max_steps, or num_train_epochs over batches that do not cross epochs.
int64_t total_steps(const config::RunConfig& config, int64_t rows);

}  // namespace hone::train
