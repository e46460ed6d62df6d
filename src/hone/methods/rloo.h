#pragma once
// REINFORCE leave-one-out (RLOO, arXiv:2402.14740), as TRL's RLOOTrainer has it.
//
// Task: as GRPO's, with a whole completion as one action and the mean of the prompt's other completions as its baseline.
//
//   L = (1 / B) sum_i -min(r_i A_i, clip(r_i) A_i),   r_i = exp(sum_t p_it - sum_t old_it)
//   A_i = R_i - mean of the R of the group's other scored completions;  normalised over the rollout with normalize_advantages
//   R_i = clamp(reward_i, reward_clip_range) - beta sum_t (old_it - ref_it)
//
//   B = counts[0]         the completions of the optimizer step
//   p_it, old_it          logprobs[t] now, and SampledCompletion::logprobs: both under softmax(logits / temperature)
//   ref_it                the reference's (the policy at step 0); the KL term is k1, a part of the reward: no gradient goes through it
//   clip                  to [1 - epsilon, 1 + epsilon_high]
//
// With one update a rollout the ratio is exactly 1. mask_truncated_completions: a cut completion has no tokens, hence no gradient, and counts in B.
// Metrics, TRL's keys: those of advantages.h, kl (mean over the rollout's tokens of old - ref: k1, may be negative), entropy, clip_ratio/* (by
// completion), sampling/sampling_logp_difference/{mean,max}. Departures from TRL 1.16: those of advantages.h.
#include "hone/methods/group_rows.h"

namespace hone::methods {

class Rloo : public GroupMethod {
 public:
  Rloo(const config::RunConfig& config, std::vector<std::string> reward_names);
  void begin(std::vector<Group> groups) override;
  void referenced() override;
  bool has_gradient(int64_t row) const override;
  /// {completions, completions, trained tokens, completions with any}.
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;
  std::vector<std::pair<std::string, double>> rollout_metrics() const override;

 private:
  double kl_ = 0;  // mean over the rollout's trained tokens
};

}  // namespace hone::methods
