#include "hone/methods/gae.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hone/base/error.h"
#include "hone/methods/rl_math.h"

namespace hone::methods {

Gae gae(std::span<const double> rewards, std::span<const double> values, double gamma, double lam) {
  check(rewards.size() == values.size(), "gae: {} rewards of {} states", rewards.size(), values.size());
  Gae out;
  out.advantages.resize(values.size());
  out.returns.resize(values.size());
  double advantage = 0, next = 0;
  for (size_t t = values.size(); t-- > 0;) {
    advantage = rewards[t] + gamma * next - values[t] + gamma * lam * advantage;
    next = values[t];
    out.advantages[t] = advantage;
    out.returns[t] = advantage + values[t];
  }
  return out;
}

void RunningMoments::add(double value) {
  count += 1;
  const double before = value - mean;
  mean += before / count;
  sum_squares += before * (value - mean);
}

void whiten(std::span<double> values, bool shift_mean) {
  RunningMoments moments;
  for (const double v : values) moments.add(v);
  const double scale = moments.count > 1 ? 1.0 / std::sqrt(moments.variance() + 1e-8) : 1.0;
  for (double& v : values) v = (v - moments.mean) * scale + (shift_mean ? 0.0 : moments.mean);
}

double explained_variance(std::span<const double> returns, std::span<const double> values) {
  check(returns.size() == values.size(), "explained_variance: {} returns, {} values", returns.size(), values.size());
  RunningMoments all, errors;
  for (size_t i = 0; i < returns.size(); ++i) {
    all.add(returns[i]);
    errors.add(returns[i] - values[i]);
  }
  return all.sum_squares > 0 ? 1.0 - errors.sum_squares / all.sum_squares : std::numeric_limits<double>::quiet_NaN();
}

double token_kl(double policy_logprob, double reference_logprob, bool k3) {
  return k3 ? kl_k3(policy_logprob, reference_logprob) : kl_k1(policy_logprob, reference_logprob);
}

double adapted_kl_coef(double coefficient, double kl, double target, double episodes, double horizon) {
  check(target > 0 && horizon > 0, "adapted_kl_coef: target {}, horizon {}", target, horizon);
  return coefficient * (1.0 + std::clamp(kl / target - 1.0, -0.2, 0.2) * episodes / horizon);
}

}  // namespace hone::methods
