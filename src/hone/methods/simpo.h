#pragma once
// SimPO and contrastive preference optimisation (CPO): preferences without a reference.
//
// Task: make the chosen completions likelier than the rejected ones; the policy's own log-probability is the reward.
//
//   L = (1 / P) sum_i loss(m_c - m_r) + (cpo_alpha / T) sum_i - log pi(chosen_i)
//
//   simpo     smoothed -log sigma(beta d - gamma)      SimPO, arXiv:2405.14734 eq. 6; m the mean of logprobs over the completion's tokens
//   alphapo   the same with rewards (1 - exp(-a m)) / a in the place of m                      AlphaPO, arXiv:2501.03884; a = alphapo_alpha
//   sigmoid   smoothed -log sigma(beta d)              CPO, arXiv:2401.08417 eq. 3; m the sum of logprobs
//   hinge     max(0, 1 - beta d)                       m the sum
//   ipo       (d - 1/(2 beta))^2                       m the mean
//   smoothed -log sigma(x) = -(1-e) log sigma(x) - e log sigma(-x), e = label_smoothing;  gamma = simpo_gamma
//   P = counts[1], T = counts[2]                       pairs and chosen completions' tokens of the optimizer step
//
// Metrics: those of pairs.h; rewards/* with the reward beta m (beta times the transformed one with alphapo); logps/* = m; nll_loss where
// cpo_alpha is not 0.
// Departures from TRL 1.16: the second term is normalised over the step, not over a micro-batch; logits/* are means over the completions'
// tokens (there also over prompts and padding); alpha belongs to alphapo alone.
#include "hone/config/run_config.h"
#include "hone/methods/pairs.h"

namespace hone::methods {

class Simpo : public PairMethod {
 public:
  Simpo(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens);
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;

 private:
  config::PreferenceOptions options_;
  size_t loss_ = 0;  // of the table
};

/// Elementwise: the loss of this name (one of the above) of rewards (m, transformed) of chosen and rejected; for tests.
at::Tensor simpo_loss(std::string_view name, const at::Tensor& chosen, const at::Tensor& rejected, const config::PreferenceOptions& options);

}  // namespace hone::methods
