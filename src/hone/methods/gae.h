#pragma once
// What a PPO rollout's numbers go through before anything is trained: pure functions over one episode, or over all of a rollout, in float64
// and in data order. An episode is the completion of one prompt: actions y_0 .. y_{n-1} taken in the states s_0 .. s_{n-1}. One that sampled
// its end token has finished and has one state more, s_n behind the end token; one that the length limit cut has not.
#include <span>
#include <vector>

namespace hone::methods {

/// Generalised advantage estimation (arXiv:1506.02438, eq. 11 to 16) of one episode, by its states:
///   delta_t = r_t + gamma V(s_{t+1}) - V(s_t)      A_t = delta_t + gamma lam A_{t+1}      R_t = A_t + V(s_t)
/// with V = 0 and A = 0 behind the last state: nothing is bootstrapped, also of a cut episode (as TRL's; its limit is part of the task).
struct Gae {
  std::vector<double> advantages, returns;
};
Gae gae(std::span<const double> rewards, std::span<const double> values, double gamma, double lam);

/// Mean and variance in one pass of fixed order (Welford); the variance with n - 1, as TRL's masked_var.
struct RunningMoments {
  double count = 0, mean = 0, sum_squares = 0;
  void add(double value);
  double variance() const { return count > 1 ? sum_squares / (count - 1) : 0; }
};

/// (x - mean) / sqrt(variance + 1e-8) over all of `values`; without shift_mean the mean is given back (TRL's masked_whiten). A single value
/// has no variance: only its mean is taken off.
void whiten(std::span<double> values, bool shift_mean);

/// 1 - Var(returns - values) / Var(returns): 1 for values that know the returns, 0 for a constant, below 0 for worse than that. NaN where the
/// returns are all the same.
double explained_variance(std::span<const double> returns, std::span<const double> values);

/// Estimators of KL(policy || reference) at one token sampled from the policy (http://joschu.net/blog/kl-approx.html):
///   k1 = log pi - log ref                                 unbiased; negative where the reference likes the token better
///   k3 = exp(d) - 1 - d, d = log ref - log pi              unbiased, never negative, of less variance near the reference
double token_kl(double policy_logprob, double reference_logprob, bool k3);

/// The coefficient of the KL penalty that steers to a target (Ziegler et al. 2019, arXiv:1909.08593, section 2.2):
///   coefficient *= 1 + clip(kl / target - 1, -0.2, 0.2) episodes / horizon
double adapted_kl_coef(double coefficient, double kl, double target, double episodes, double horizon);

}  // namespace hone::methods
