#pragma once
// Direct preference optimisation (DPO, arXiv:2305.18290) and its family.
//
// Task: make the chosen completions likelier than the rejected ones, measured against a frozen reference, without a reward model.
//
//   L = (1 / P) sum_i w_i sum_k a_k loss_k(pair i) + (a_sft / T) sum_i w_i (- log pi(chosen_i))
//
//   loss_k, a_k = options.loss_type, loss_weights     the table in dpo_losses.h
//   P = counts[1]                                 the pairs of the optimizer step (not of a micro-batch)
//   T = counts[2]                                 the chosen completions' tokens of the step; a_sft the weight of the loss type sft
//   log pi = sum_{t <= m} logprobs[t] + ld_alpha sum_{t > m} logprobs[t]       m the shorter completion's length (LD-DPO, arXiv:2409.06411)
//   log ref                                       the same of the cached reference
//   w_i = exp(mean_t(logprobs[t] - log_sum_p2[t]) of chosen + the same of rejected), a constant; 1 without use_weighting (WPO, arXiv:2406.11827)
//
// The losses aot and aot_unpaired compare sorted values of all pairs of the step: a first pass without gradient gives every pair its
// partners, and its own loss then has the exact gradient, whatever the micro-batches.
//
// Metrics: those of pairs.h, rewards/* with the reward beta (log pi - log ref), logps/*, and against the reference
//   kl/chosen, kl/rejected   mean over that side's tokens of exp(d) - 1 - d, d = log ref - log pi: how far the policy moved there, nats a token
//                            (the k3 estimator of http://joschu.net/blog/kl-approx.html, off-policy here)
//   chosen_drop              mean over the chosen tokens of log ref - log pi, nats a token: above 0 the chosen completions became less likely
//   chosen_fell              share of pairs whose chosen completion became less likely
// Departures from TRL 1.16: sft is normalised over the step, not over a micro-batch; with use_weighting it is weighted pair by pair; a
// weighting of aot, which there falls on whatever pair has that rank, is refused; discopop stays finite at large negative margins.
#include "hone/config/run_config.h"
#include "hone/methods/dpo_losses.h"
#include "hone/methods/pairs.h"

namespace hone::methods {

class Dpo : public PairMethod {
 public:
  /// Options that no loss is defined for are UserErrors.
  Dpo(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens);
  Scope scope() const override { return sorted_ ? Scope::step : Scope::sequence; }
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;
  /// Null where no loss reads it (sft alone).
  ReferenceLogprobs* reference() override { return has_reference_ ? &reference_ : nullptr; }
  const char* fall_metric() const override { return has_reference_ ? "chosen_drop" : nullptr; }
  /// The partners of dpo_losses.h, (3, pairs of the step).
  at::Tensor first_pass(const Forward& all) const override;

 private:
  struct Weighted {
    const DpoLoss* loss;
    double weight;
  };
  at::Tensor tail_weights(const Forward& forward) const;
  at::Tensor reference_logprobs(const Forward& forward) const;
  PairTerms terms(const Forward& forward, const at::Tensor& reference, const StepInputs& step) const;
  at::Tensor policy_weights(const Forward& forward) const;
  std::vector<Term> losses(const PairTerms& terms, const at::Tensor& weights, const StepInputs& step) const;

  config::PreferenceOptions options_;
  std::vector<Weighted> pair_losses_, token_losses_;
  bool has_reference_ = false, sorted_ = false;
  ReferenceLogprobs reference_;
};

}  // namespace hone::methods
