#pragma once
// Group relative policy optimisation (GRPO, arXiv:2402.03300) and its family: DAPO, Dr. GRPO, BNPO, CISPO, SAPO, LUSPO, VESPO, GSPO.
//
// Task: make sampled completions likelier by how much better they are than the others of their prompt; no value model, no reward model needed.
//
//   L = (1 / Z) sum_i z_i sum_t [ c_it m_it loss(w_it, p_it; A_i) + beta k3(p_it, ref_it) s_it ] - (entropy_coef / E) sum_it m_it H_it
//
//   loss, z_i, Z          options.loss_type: the table in grpo_losses.h, with Z = counts[0] and z_i = 1/n_i where that is a mean of means
//   p_it                  logprobs[t] under softmax(logits / temperature), untruncated: the law that is trained
//   w_it                  log importance weight p_it - old_it, or (importance_sampling_level sequence, GSPO) its mean over the completion
//   old_it                SampledCompletion::logprobs; with one update a rollout p_it itself as a constant, so that the ratio is exactly 1
//   A_i                   advantages.h, a constant
//   ref_it, k3            the reference's log-probability (the policy at step 0), rl_math.h; s_it = exp(w_it) with use_bias_correction_kl
//                         (unbiased off the policy, arXiv:2512.02556), else 1
//   c_it                  correction by the law that sampled, exp(old_it - sampler_it) cut (importance_sampling_*), a constant; 1 where off.
//                         vespo has it in its phi instead
//   m_it                  1; with top_entropy_quantile q < 1: whether H_it is among the highest q of the step's tokens (arXiv:2506.01939)
//   H_it, E               entropy of the prediction; the tokens of the step with m_it = 1
//   mask_truncated_completions    the tokens of a cut completion are in no sum and no count of tokens; it still counts as a completion
//
// Metrics, TRL's keys: those of advantages.h (rollout_metrics), kl (mean over tokens of k3 s), entropy (mean over tokens), clip_ratio/*,
// cispo_clip_ratio, vespo/phi_seq_mean, policy_loss and entropy_coef (with an entropy bonus), sampling/sampling_logp_difference/{mean,max} (at
// the first update of a rollout: 0 on the CPU by construction, and measured), sampling/importance_sampling_ratio/{min,mean,max}.
// Groups that the loop leaves out (has_gradient false) are in counts[0] but in no metric of the forward.
//
// Departures from TRL 1.16: every normaliser is over the optimizer step (grpo, bnpo, dr_grpo, sapo, luspo, entropy there: over a micro-batch,
// averaged), and so is the quantile of the entropies; a NaN in vespo's weight is not
// made 0; vespo/phi_seq_mean and clip_ratio/* by sequence leave out completions without a trained token. Equal where TRL accumulates nothing.
#include "hone/methods/group_rows.h"
#include "hone/methods/grpo_losses.h"

namespace hone::methods {

class Grpo : public GroupMethod {
 public:
  /// Options that no loss is defined for are defects here: the configuration refuses them.
  Grpo(const config::RunConfig& config, std::vector<std::string> reward_names);
  Scope scope() const override { return options_.top_entropy_quantile < 1 ? Scope::step : Scope::sequence; }
  void begin(std::vector<Group> groups) override;
  bool has_gradient(int64_t row) const override;
  /// {Z, then completions, trained tokens, completions with any}.
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  /// With one update and nothing but the policy's term, dL/dlogprob is -A c / Z before any forward.
  std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;
  /// {the least entropy that is trained, how many tokens have it}.
  at::Tensor first_pass(const Forward& all) const override;

 private:
  struct Step;
  CompletionInputs inputs(const Place& place, const Step& step) const;
  double scale(const Place& place) const;
  bool corrected() const { return options_.importance_sampling_clip_max || options_.importance_sampling_clip_min; }
  void report(std::vector<Term>& metrics, const std::vector<Place>& places, const std::vector<CompletionLoss>& losses, const Counts& counts) const;

  const GrpoLoss* loss_;
  Counts rollout_;
};

}  // namespace hone::methods
