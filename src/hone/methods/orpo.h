#pragma once
// Odds-ratio preference optimisation (ORPO, arXiv:2403.07691).
//
// Task: fine-tune on the chosen completions and push the odds of the rejected ones down, in one run and without a reference.
//
//   L = (1 / T) sum_i - log pi(prompt_i, chosen_i) - (beta / P) sum_i log sigma(o_i)
//   o_i = log odds(chosen_i) - log odds(rejected_i),   log odds(y) = m - log(1 - exp m)          eq. 4 and 7
//
//   m = the mean of logprobs over the completion's tokens
//   beta = options.beta          lambda in the paper
//   P = counts[1], T = counts[4]      of the optimizer step: the pairs; all predicted tokens of prompt + chosen
//   - log pi(prompt_i, chosen_i)      over prompt and completion, as TRL 1.16 trains it (the paper: the completion alone)
//
// Metrics: those of pairs.h; rewards/* with the reward beta m; logps/* = m (nats a token); nll_loss; log_odds_ratio = mean of log sigma(o);
// log_odds_chosen = mean of o.
// Departures from TRL 1.16: the first term is normalised over the step, not over a micro-batch; logits/* are means over the completions'
// tokens (there also over prompts and padding); float64 where it has float32.
#include "hone/config/run_config.h"
#include "hone/methods/pairs.h"

namespace hone::methods {

class Orpo : public PairMethod {
 public:
  Orpo(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens);
  /// The chosen sequence is predicted from its second token on, the rejected one's completion alone.
  void append(batch::PackedBatch& batch, int64_t row) const override;
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;

 private:
  config::PreferenceOptions options_;
  std::vector<float> ones_;  // as many as the longest chosen sequence has tokens
};

/// log(1 - exp(x)) of x <= 0, without cancellation at either end.
at::Tensor log1mexp(const at::Tensor& x);

}  // namespace hone::methods
