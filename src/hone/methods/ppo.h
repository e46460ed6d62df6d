#pragma once
// Proximal policy optimisation (PPO) of a language model, token by token, with a learned value model.
//
// Task: make completions that score higher likelier, without leaving the reference far behind, in several small safe steps a rollout.
// Source: Schulman et al. 2017 (arXiv:1707.06347, eq. 7 and 9); on language models Ziegler et al. 2019 (arXiv:1909.08593) and Huang et al. 2024
// (arXiv:2403.17031); the value loss's clip: Engstrom et al. 2020 (arXiv:2005.12729); dual clip: Ye et al. 2020 (arXiv:1912.09729).
//
//   policy   L = (1 / N) sum_t [ max(-A_t r_t, -A_t clip(r_t, 1 - e, 1 + e)) + k KL_t - h H_t ]
//   value    L = (c / M) sum_s 1/2 max((v_s - R_s)^2, (clip(v_s, V_s - e_v, V_s + e_v) - R_s)^2)
//
//   r_t = exp(logprobs[t] - old_logprobs[t])      under softmax(logits / temperature); exactly 1 in a rollout's first update
//   A_t, R_s, V_s, old_logprobs                   constants of the rollout: ppo_rollout.h
//   e, e_v, c = options.cliprange, cliprange_value, vf_coef
//   dual clip: with A_t < 0 the bracket is at most -A_t options.dual_clip
//   k KL_t = kl_coef token_kl(logprobs[t], reference[t]) with kl_in_loss, by k3; else 0 (the KL is in the reward)
//   h H_t = entropy_coef times the entropy of the prediction, nats
//   N, M = counts[0]                              tokens, or states, of the mini-batch (not of a micro-batch)
//
// The two losses are two methods over the same rows, run one after the other: their activations never stand in memory together.
//
// Metrics (TRL's keys), means over the mini-batch's real tokens or states: loss/policy_avg, policy/approxkl_avg (half the mean squared
// log-ratio), policy/clipfrac_avg, policy/entropy_avg, val/ratio, val/ratio_var (mean of (r_t - 1)^2); loss/value_avg (without c),
// val/clipfrac_avg; kl (k3 against the reference, nats a token: what --max_kl watches), and in a rollout's first update
// sampling/sampling_logp_difference/mean (how far the trainer is from what was sampled: 0).
// Departures from TRL 1.12: its policy/approxkl_avg, policy/entropy_avg and val/ratio take padding into the mean; its val/ratio_var is the
// variance of the updates' mean ratios.
#include <memory>

#include "hone/methods/ppo_rollout.h"

namespace hone::methods {

/// The loss of one token or state, its derivative, and whether the clip decided it.
struct ClippedLoss {
  double loss = 0, slope = 0;
  bool clipped = false;
};
/// By the log-probability. dual_clip 0: none.
ClippedLoss clipped_policy_loss(double logprob, double old_logprob, double advantage, double cliprange, double dual_clip);
/// By the value, without vf_coef.
ClippedLoss clipped_value_loss(double value, double old_value, double target, double cliprange);

class PpoPolicy : public OnPolicyMethod {
 public:
  PpoPolicy(std::shared_ptr<PpoRollout> rollout, PpoState& state, double temperature, double entropy_coef, int64_t max_tree_tokens)
      : rollout_(std::move(rollout)), state_(state), temperature_(temperature), entropy_coef_(entropy_coef), max_tree_tokens_(max_tree_tokens) {}
  void begin(std::vector<Group> groups) override { rollout_->begin(std::move(groups), state_); }
  void referenced() override { rollout_->finish(state_); }
  void update(int64_t index) override { rollout_->fresh = index == 0; }
  std::vector<double> advantages(int64_t row) const override { return rollout_->advantages(row); }
  bool has_gradient(int64_t row) const override { return !rollout_->warming && rollout_->row(row).predictions() > 0; }
  std::vector<std::pair<std::string, double>> rollout_metrics() const override { return rollout_->metrics(); }

  Scope scope() const override { return Scope::token; }
  double temperature() const override { return temperature_; }
  int64_t num_rows() const override { return rollout_->num_rows(); }
  int64_t row_tokens(int64_t row) const override;
  int64_t input_tokens(int64_t row) const override;
  void append(batch::PackedBatch& batch, int64_t row) const override;
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;
  ReferenceLogprobs* reference() override { return &rollout_->reference(); }

 private:
  std::shared_ptr<PpoRollout> rollout_;
  PpoState& state_;
  double temperature_, entropy_coef_;
  int64_t max_tree_tokens_;
};

/// The value model's half. Its rows are those of the policy's rollout.
class PpoValue : public Method {
 public:
  PpoValue(std::shared_ptr<PpoRollout> rollout, int64_t max_tree_tokens) : rollout_(std::move(rollout)), max_tree_tokens_(max_tree_tokens) {}
  Scope scope() const override { return Scope::token; }
  Reads reads() const override { return Reads::values; }
  int64_t num_rows() const override { return rollout_->num_rows(); }
  int64_t row_tokens(int64_t row) const override;
  int64_t input_tokens(int64_t row) const override;
  void append(batch::PackedBatch& batch, int64_t row) const override;
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;

 private:
  std::shared_ptr<PpoRollout> rollout_;
  int64_t max_tree_tokens_;
};

}  // namespace hone::methods
