#pragma once
// The eight loss types of `hone grpo`, each one small pure function in a table. Names and formulas are TRL 1.16's.
//
// Of one token, with A the completion's advantage, p its log-probability, w the log importance weight (by token p - p_old; by sequence, GSPO,
// arXiv:2507.18071, the mean of these over the completion), r = exp(w), e = epsilon, h = epsilon_high, clip(r) = min(max(r, 1 - e), 1 + h):
//   grpo      -min(min(r, delta) A, clip(r) A)      arXiv:2402.03300; h > e: clip-higher of DAPO; delta: two-sided clipping, arXiv:2505.07291
//   dr_grpo, dapo, bnpo, luspo      the same, normalised otherwise
//   cispo     -stop(min(r, h)) A p                  arXiv:2506.13585; h bounds the ratio itself, so it is above 1 in any sensible run
//   sapo      -4 sigma(k (r - 1)) / k A             arXiv:2511.20347; k = sapo_temperature_pos where A > 0, else sapo_temperature_neg
//   vespo     -stop(phi) A p                        arXiv:2602.10693; phi = exp(l + k log W - l W), W the ratio of the whole completion,
//                                                   (k, l) = vespo_{k,lambda}_pos where A >= 0, else _neg
// What the sum over a completion's tokens is divided by (n its trained tokens, B the completions of the optimizer step):
//   grpo, sapo           n, then B                            a mean of means
//   luspo                B                                    a mean of sums (arXiv:2602.05261: longer completions are not held back)
//   bnpo                 the trained tokens of the step
//   dr_grpo              B max_completion_length              arXiv:2503.20783
//   dapo, cispo, vespo   the trained tokens of the rollout, times the step's share of its completions      arXiv:2503.14476
#include <span>
#include <string_view>

#include "hone/config/run_config.h"

namespace hone::methods {

/// What a loss sees of one token.
struct TokenInputs {
  double log_weight, logprob, advantage;
  double phi = 1;  // of the completion (vespo)
};

struct TokenLoss {
  double value;
  double by_weight, by_logprob;    // derivatives with regard to log_weight and to logprob
  bool low = false, high = false;  // the ratio left the trust region on the side where that costs the gradient
};

enum class Normaliser { completion_mean, completion_sum, step_tokens, max_length, rollout_tokens };

struct GrpoLoss {
  std::string_view name;
  TokenLoss (*loss)(const TokenInputs& t, const config::OnPolicyOptions& o);
  Normaliser normaliser;
  bool phi = false;   // reads it
  bool clips = true;  // has a trust region: clip_ratio/*
};
std::span<const GrpoLoss> grpo_losses();
/// Null where there is none of this name.
const GrpoLoss* find_grpo_loss(std::string_view name);

/// PPO's clipped surrogate, as grpo above.
TokenLoss clipped_loss(const TokenInputs& t, const config::OnPolicyOptions& o);

/// phi of a completion: the sum of its tokens' log-ratios, each cut to [-20, 20].
double vespo_phi(double log_ratio, double advantage, const config::OnPolicyOptions& options);

/// One completion: its n trained tokens, in order.
struct CompletionInputs {
  std::span<const double> logprobs;  // (n)
  std::span<const float> old;        // (n) when it was sampled; empty: the same as logprobs (the ratio is exactly 1)
  std::span<const float> sampler;    // (n) under the law that sampled it; empty: no correction
  std::span<const float> reference;  // (n) empty: no KL term
  std::span<const char> kept;        // (n) 0: the token has no policy gradient (top_entropy_quantile); empty: all have
  double advantage = 0;
};

/// Sums over the completion; with sequence-level weights `units` is 1 and what is counted by unit is of the completion.
struct CompletionLoss {
  double value = 0;  // policy loss and beta KL, before any normaliser
  double kl = 0;     // of its tokens
  double phi = 0;
  double low = 0, high = 0;  // units beyond the trust region
  double units = 0;
  double ratio_sum = 0, ratio_min = 0, ratio_max = 0;  // of the sampler's correction, over ratio_count values
  double ratio_count = 0;
};
/// slopes (n) receives d value / d logprob of each token.
CompletionLoss completion_loss(const GrpoLoss& loss, const CompletionInputs& c, double beta, const config::OnPolicyOptions& options,
                               std::span<double> slopes);

}  // namespace hone::methods
