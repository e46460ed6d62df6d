#pragma once
// Where the rows of an on-policy run come from. Before a step that begins a rollout: prompts are drawn, the policy's own tensors sample their
// completions, the rewards judge them, groups that teach nothing may be replaced by fresh ones, and the method takes the groups. One rollout
// serves a fixed number of optimizer steps.
//
// Everything follows from (seed, number of the draw, weights): which prompt a draw is, and the noise of its samples. Together with the journal
// a rollout is therefore the same bits after a kill at any moment.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hone/methods/on_policy.h"
#include "hone/rollout/sampler.h"
#include "hone/train/journal.h"
#include "hone/train/metrics.h"
#include "hone/train/prompt_data.h"

namespace hone::train {

/// What sampling and judging need, in a run and in an evaluation.
struct SamplingSetup {
  rollout::SamplingLaw law;
  int64_t num_generations = 8;
  int64_t max_completion_length = 256;
  uint64_t seed = 42;
  std::vector<int32_t> stop_ids;
  const text::Tokenizer* tokenizer = nullptr;
  std::vector<NamedReward>* rewards = nullptr;
  std::vector<double> reward_weights;  // one for each reward
  config::RewardAggregation aggregation = config::RewardAggregation::sum_then_normalize;
};

/// Which steps a rollout serves, and with which of its groups.
struct RolloutPlan {
  int64_t prompts = 8;  // groups of a rollout
  int64_t steps = 1;    // optimizer steps that it serves
  /// The groups that step `step` (from 0) of rollout number `rollout` trains on.
  std::function<std::vector<int64_t>(int64_t rollout, int64_t step)> rows;
  bool shuffle = true;  // prompts in an order drawn anew for every pass over them; false: in the order of the file
  bool dynamic_sampling = false;
  int64_t max_resample = 3;  // rounds of fresh prompts at most
};

/// Optimizer steps of a run: max_steps, or whole rollouts until num_train_epochs passes over the prompts are begun.
int64_t rollout_steps(const config::RunConfig& config, int64_t prompts, const RolloutPlan& plan);

/// TRL's order: num_iterations times over steps_per_generation slices of prompts_per_step groups.
RolloutPlan sliced_plan(int64_t prompts_per_step, int64_t steps_per_generation, int64_t num_iterations);

/// Seconds and tokens of what happened before a step.
struct RolloutTimes {
  double sampling = 0, scoring = 0;
  int64_t sampled_tokens = 0;  // that this process sampled: not those of the journal
  int64_t judged_tokens = 0;
};

class RolloutSource {
 public:
  RolloutSource(std::filesystem::path run, const PromptData& prompts, SamplingSetup setup, RolloutPlan plan, methods::OnPolicyMethod& method);

  /// What the run is: the journal of another one is not taken up.
  void set_key(std::string key) { key_ = std::move(key); }
  const RolloutPlan& plan() const { return plan_; }
  const SamplingSetup& setup() const { return setup_; }
  /// Passes over the prompts so far.
  double epoch() const { return static_cast<double>(draws_) / static_cast<double>(num_prompts()); }
  int64_t num_prompts() const { return static_cast<int64_t>(prompts_.rows.size()); }
  bool begins(int64_t step) const { return step % plan_.steps == 0; }
  /// Collects the rollout that step number `step` (from 0) of the run belongs to, if that has not been done; `begun` is called when the method
  /// has taken its groups (may be empty). False: a signal came in between; what is finished is in the journal.
  bool before_step(int64_t step, model::Model& model, const ops::AdapterSet* adapters, const std::function<void(int64_t groups)>& begun);
  /// The rows of the method that the step trains on.
  std::vector<int64_t> rows(int64_t step) const { return plan_.rows(step / plan_.steps, step % plan_.steps); }

  /// The rollout at hand: groups as the method has them, and those that were replaced.
  const std::vector<DrawnGroup>& groups() const { return groups_; }
  const std::vector<DrawnGroup>& replaced() const { return replaced_; }
  /// Figures of the rollout (those of the method, shares of verdicts).
  Json metrics() const;
  /// Times since they were last asked for.
  RolloutTimes take_times();

  /// After a checkpoint of the state after `step` steps: older journals are no longer needed.
  void saved(int64_t step);
  /// What a checkpoint after `step` steps must hold; in the middle of a rollout that is the rollout.
  Json state(int64_t step) const;
  void restore(const Json& state, int64_t step);
  /// The run has come to its end: no journal is needed any more.
  void finished();

 private:
  bool collect(model::Model& model, const ops::AdapterSet* adapters);
  std::vector<DrawnGroup> draw(int64_t count);
  bool sample(std::vector<DrawnGroup>& groups, model::Model& model, const ops::AdapterSet* adapters);
  void judge(std::vector<DrawnGroup>& groups);
  void judge_with(size_t reward, std::vector<DrawnGroup>& groups);
  void hand_over();
  int64_t row_of(int64_t draw);
  void write_completions(int64_t step);

  std::filesystem::path run_;
  const PromptData& prompts_;
  SamplingSetup setup_;
  RolloutPlan plan_;
  methods::OnPolicyMethod& method_;
  std::string key_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<MetricsWriter> completions_;
  std::vector<DrawnGroup> groups_, replaced_;
  int64_t rollout_ = -1;          // the one at hand
  int64_t journal_rollout_ = -1;  // whose journal is open
  int64_t draws_begin_ = 0;       // draws before the rollout at hand
  int64_t draws_ = 0;             // draws so far
  int64_t written_to_ = 0;        // completions.jsonl holds the rollouts that began before this step
  int64_t epoch_ = -1;            // whose order is in order_
  std::vector<uint32_t> order_;
  RolloutTimes times_;
};

/// What sample_groups asks and tells.
struct GroupSampling {
  std::function<bool(size_t group, uint32_t sample)> has;  // already: left out
  std::function<void(size_t group, uint32_t sample, const rollout::Completion& completion)> done;
  std::function<bool()> go_on;  // false ends it; may be empty
};
/// Samples the groups' completions. False: it was ended early.
bool sample_groups(std::span<const DrawnGroup> groups, const PromptData& prompts, const SamplingSetup& setup, model::Model& model,
                   const ops::AdapterSet* adapters, const GroupSampling& calls);
/// A completion's text: without its end token, invalid UTF-8 replaced.
std::string completion_text(const rollout::Completion& completion, const SamplingSetup& setup);
/// The sum of the rewards by their weights; empty where none gave the sample a score.
std::optional<double> total_reward(const Trajectory& trajectory, const SamplingSetup& setup);
/// Whether something that judges it broke (crashed, timed-out) and gave no number: such a sample is unscored, whatever the others say of it.
bool is_broken(const Trajectory& trajectory);
/// Whether it teaches something: methods::has_spread.
bool has_spread(const DrawnGroup& group, const SamplingSetup& setup);
}  // namespace hone::train
