#include "hone/methods/rl_math.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::methods {

double kl_k1(double logprob, double reference) { return logprob - reference; }

double kl_k2(double logprob, double reference) { return 0.5 * (logprob - reference) * (logprob - reference); }

double kl_k3(double logprob, double reference) {
  const double d = reference - logprob;
  // Where exp(d) - 1 - d would cancel: its series. The first term left out is below 1e-15 of the sum at |d| = 1/64.
  if (std::fabs(d) < 0.015625)
    return d * d * (1.0 / 2 + d * (1.0 / 6 + d * (1.0 / 24 + d * (1.0 / 120 + d * (1.0 / 720 + d * (1.0 / 5040 + d * (1.0 / 40320)))))));
  return kernels::exact_exp(d) - 1.0 - d;
}

double kl_k3_slope(double logprob, double reference) { return 1.0 - kernels::exact_exp(reference - logprob); }

Statistics statistics(std::span<const double> values) {
  Statistics s;
  double sum = 0, squares = 0;
  for (double v : values)
    if (!std::isnan(v)) sum += v, ++s.count;
  s.mean = s.count > 0 ? sum / static_cast<double>(s.count) : std::numeric_limits<double>::quiet_NaN();
  for (double v : values)
    if (!std::isnan(v)) squares += (v - s.mean) * (v - s.mean);
  s.deviation = s.count > 1 ? std::sqrt(squares / static_cast<double>(s.count - 1)) : std::numeric_limits<double>::quiet_NaN();
  return s;
}

double quantile(std::vector<double> values, double q) {
  check(q >= 0 && q <= 1, "quantile {}", q);
  if (values.empty()) return 0;
  for (double v : values)
    if (std::isnan(v)) return v;
  std::sort(values.begin(), values.end());
  const double rank = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(std::floor(rank));
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (rank - static_cast<double>(below)) * (values[above] - values[below]);
}

std::vector<double> importance_ratios(std::span<const double> logprobs, std::span<const float> sampler, const config::OnPolicyOptions& options) {
  using config::ImportanceMode;
  check(logprobs.size() == sampler.size(), "{} log-probabilities, {} of the sampler", logprobs.size(), sampler.size());
  const ImportanceMode mode = options.importance_sampling_mode;
  std::vector<double> differences;
  for (size_t t = 0; t < sampler.size(); ++t) differences.push_back(logprobs[t] - static_cast<double>(sampler[t]));
  if (mode == ImportanceMode::sequence_truncate || mode == ImportanceMode::sequence_mask) {
    double sum = 0;
    for (double d : differences) sum += d;
    differences = {sum};
  }
  const double low = options.importance_sampling_clip_min.value_or(-std::numeric_limits<double>::infinity());
  const double high = options.importance_sampling_clip_max.value_or(std::numeric_limits<double>::infinity());
  const bool truncate = mode == ImportanceMode::sequence_truncate || mode == ImportanceMode::token_truncate;
  for (double& d : differences) {
    const double ratio = kernels::exact_exp(d);
    d = truncate ? std::min(std::max(ratio, low), high) : (ratio < low || ratio > high ? 0.0 : ratio);
  }
  return differences;
}

}  // namespace hone::methods
