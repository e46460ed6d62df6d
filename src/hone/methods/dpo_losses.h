#pragma once
// The fifteen loss types and four f-divergences of `hone dpo`, each one small pure function in a table. Names and formulas are TRL 1.16's.
//
// With s = beta (f_c - f_r) (see PairTerms), sigma the logistic function, e = label_smoothing, c and r the log-ratios:
//   sigmoid        -log sigma(s)                                           DPO, arXiv:2305.18290 eq. 7
//   hinge          max(0, 1 - s)                                           SLiC, arXiv:2305.10425, RSO, arXiv:2309.06657
//   ipo            (f_c/n_c - f_r/n_r - 1/(2 beta))^2                      arXiv:2310.12036 eq. 17, a mean over tokens
//   exo_pair       KL((sigma(s), sigma(-s)) || (1-e, e))                   arXiv:2402.00856 eq. 16; e > 0
//   nca_pair       -log sigma(beta c) - (log sigma(-beta c) + log sigma(-beta r))/2      arXiv:2402.05369
//   robust         (-(1-e) log sigma(s) + e log sigma(-s)) / (1 - 2e)      arXiv:2403.00409; e < 1/2
//   bco_pair       -log sigma(beta c) - log sigma(-beta r)                 arXiv:2404.04656, without its running mean
//   sppo_hard      (c - 1/(2 beta))^2 + (r + 1/(2 beta))^2                 arXiv:2405.00675 eq. 4.7
//   aot            smoothed -log sigma(beta (sorted(c' - r') - sorted reference's)), c', r' log-probabilities     arXiv:2406.05882, paired
//   aot_unpaired   smoothed -log sigma(beta (sorted(c) - sorted(r)))       arXiv:2406.05882; both sorted over all pairs of the step
//   apo_zero       sigma(-beta c) + sigma(beta r)                          arXiv:2408.06266 eq. 7
//   apo_down       sigma(beta c) + sigma(-beta (c - r))                    arXiv:2408.06266 eq. 8
//   discopop       -log sigma(s) sigma(-s/tau) + exp(-s) sigma(s/tau)      arXiv:2406.08414 eq. 5; tau = discopop_tau
//   sigmoid_norm   -log sigma(beta (f_c/n_c - f_r/n_r))                    DPO on means over tokens
//   sft            negative log-likelihood of the chosen completion; divided by the chosen tokens of the step, not by its pairs
// where smoothed -log sigma(x) is -(1-e) log sigma(x) - e log sigma(-x).
#include <ATen/core/Tensor.h>

#include <span>
#include <string_view>

#include "hone/config/run_config.h"

namespace hone::methods {

/// What the losses see of one pair or of many: float64 tensors of one shape, nothing of the reference with gradient.
struct PairTerms {
  at::Tensor chosen, rejected;                // log pi: sum over the completion, its tail times ld_alpha
  at::Tensor ref_chosen, ref_rejected;        // the same of the reference
  at::Tensor chosen_ratio, rejected_ratio;    // c, r = log pi - log ref
  at::Tensor chosen_score, rejected_score;    // f_c, f_r = f'(pi / ref); the log-ratios themselves with reverse_kl
  at::Tensor chosen_tokens, rejected_tokens;  // n_c, n_r: lengths of the completions
  at::Tensor chosen_nll;                      // of the plain sum, without ld_alpha
  // What stands beside the pair's values when those of all pairs of the step are sorted (constants; see aot_partners):
  at::Tensor partner_ref;       // the reference's c' - r' of the rank of this pair's c' - r'
  at::Tensor partner_rejected;  // the r of the rank of this pair's c
  at::Tensor partner_chosen;    // the c of the rank of this pair's r
};

struct DpoLoss {
  std::string_view name;
  at::Tensor (*loss)(const PairTerms& t, const config::PreferenceOptions& o);
  bool reference = true;  // reads the reference
  bool sorted = false;    // reads the partners, hence all pairs of the step
  bool tokens = false;    // is divided by the chosen tokens of the step
};
std::span<const DpoLoss> dpo_losses();
/// Null where there is none of this name.
const DpoLoss* find_dpo_loss(std::string_view name);

/// f'(exp(log_ratio)) of a divergence, up to a constant (arXiv:2309.16240).
at::Tensor divergence_score(const at::Tensor& log_ratio, const config::PreferenceOptions& options);

/// From c' - r' of the policy and of the reference, c and r, (n) float64 each, to the partners (3, n): ref, rejected, chosen. Equal values
/// keep the order of their pairs.
at::Tensor aot_partners(const at::Tensor& log_ratio, const at::Tensor& ref_log_ratio, const at::Tensor& chosen_ratio,
                        const at::Tensor& rejected_ratio);

}  // namespace hone::methods
