#pragma once
// The arithmetic that policy-gradient methods share: estimators of a divergence, importance weights, statistics over what is present.
//
// With x drawn from p, log p = log p(x) and log q = log q(x), each is an estimator of KL(p || q) (http://joschu.net/blog/kl-approx.html):
//   k1 = log p - log q                 unbiased, of either sign
//   k2 = (log p - log q)^2 / 2         biased, never negative, small variance where p and q are close
//   k3 = exp(d) - 1 - d, d = log q - log p      unbiased and never negative
//
// All of it is scalar float64 without libm: a value depends on its own inputs alone, whatever stands beside it in a batch, on every CPU.
#include <span>
#include <vector>

#include "hone/config/run_config.h"

namespace hone::methods {

double kl_k1(double logprob, double reference);
double kl_k2(double logprob, double reference);
double kl_k3(double logprob, double reference);
/// d k3 / d logprob = 1 - exp(reference - logprob).
double kl_k3_slope(double logprob, double reference);

/// How many of the values are there (not NaN), their mean and their deviation (Bessel's; NaN below two values, the mean below one).
struct Statistics {
  int64_t count = 0;
  double mean = 0, deviation = 0;
};
Statistics statistics(std::span<const double> values);

/// The q-quantile of the values, between two of them linearly (torch.quantile); 0 of none. NaN where any is NaN.
double quantile(std::vector<double> values, double q);

/// The correction of tokens that another law sampled: exp(logprobs - sampler), by token or of the whole sequence (then one value), cut to
/// [clip_min, clip_max] or 0 outside of it, by the mode. A constant: no gradient goes through it. As TRL's vllm_importance_sampling_mode.
std::vector<double> importance_ratios(std::span<const double> logprobs, std::span<const float> sampler, const config::OnPolicyOptions& options);

}  // namespace hone::methods
