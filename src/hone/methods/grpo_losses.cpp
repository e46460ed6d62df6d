#include "hone/methods/grpo_losses.h"

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"
#include "hone/methods/rl_math.h"

namespace hone::methods {
namespace {

using config::OnPolicyOptions;
using kernels::exact_exp;

constexpr double kLogFloor = -18.420680743952367;  // log 1e-8

double high_of(const OnPolicyOptions& o) { return o.epsilon_high.value_or(o.epsilon); }

TokenLoss cispo(const TokenInputs& t, const OnPolicyOptions& o) {
  const double ratio = exact_exp(t.log_weight), bounded = std::min(ratio, high_of(o));
  return {-bounded * t.advantage * t.logprob, 0, -bounded * t.advantage, false, ratio > high_of(o) && t.advantage > 0};
}

TokenLoss sapo(const TokenInputs& t, const OnPolicyOptions& o) {
  const double k = t.advantage > 0 ? o.sapo_temperature_pos : o.sapo_temperature_neg, ratio = exact_exp(t.log_weight);
  const double x = k * (ratio - 1.0), small = exact_exp(-std::fabs(x));
  const double gate = (x >= 0 ? 1.0 : small) / (1.0 + small), slope = small / ((1.0 + small) * (1.0 + small));  // sigma(x) and its derivative
  return {-gate * 4.0 / k * t.advantage, -4.0 * slope * (slope > 0 ? ratio : 1.0) * t.advantage, 0};
}

TokenLoss vespo(const TokenInputs& t, const OnPolicyOptions&) { return {-t.phi * t.advantage * t.logprob, 0, -t.phi * t.advantage}; }

constexpr GrpoLoss kLosses[] = {
    {"grpo", clipped_loss, Normaliser::completion_mean},       {"dr_grpo", clipped_loss, Normaliser::max_length},
    {"dapo", clipped_loss, Normaliser::rollout_tokens},        {"bnpo", clipped_loss, Normaliser::step_tokens},
    {"luspo", clipped_loss, Normaliser::completion_sum},       {"cispo", cispo, Normaliser::rollout_tokens, false, false},
    {"sapo", sapo, Normaliser::completion_mean, false, false}, {"vespo", vespo, Normaliser::rollout_tokens, true, false},
};

bool by_sequence(const OnPolicyOptions& o) { return o.importance_sampling_level == config::ImportanceLevel::sequence; }

// (n) or, by sequence, the same mean for each token.
std::vector<double> log_weights(const CompletionInputs& c, const OnPolicyOptions& o) {
  const size_t n = c.logprobs.size();
  std::vector<double> weights(n);
  double sum = 0;
  for (size_t t = 0; t < n; ++t) sum += weights[t] = c.logprobs[t] - (c.old.empty() ? c.logprobs[t] : static_cast<double>(c.old[t]));
  if (by_sequence(o)) std::fill(weights.begin(), weights.end(), sum / static_cast<double>(n));
  return weights;
}

// The log-ratio of the whole completion, with that of the sampler's correction where there is one.
double completion_log_ratio(const CompletionInputs& c, std::span<const double> ratios) {
  double sum = 0;
  if (!c.old.empty())
    for (size_t t = 0; t < c.logprobs.size(); ++t) sum += std::clamp(c.logprobs[t] - static_cast<double>(c.old[t]), -20.0, 20.0);
  for (double r : ratios) sum += std::clamp(kernels::exact_log(r), kLogFloor, 20.0);
  return sum;
}

std::vector<double> correction(const CompletionInputs& c, const OnPolicyOptions& o, CompletionLoss& out) {
  if (c.sampler.empty()) return {};
  std::vector<double> old(c.logprobs.begin(), c.logprobs.end());
  if (!c.old.empty()) old.assign(c.old.begin(), c.old.end());
  std::vector<double> ratios = importance_ratios(old, c.sampler, o);
  out.ratio_count = static_cast<double>(ratios.size());
  out.ratio_min = out.ratio_max = ratios[0];
  for (double r : ratios) {
    out.ratio_sum += r;
    out.ratio_min = std::min(out.ratio_min, r);
    out.ratio_max = std::max(out.ratio_max, r);
  }
  return ratios;
}

}  // namespace

std::span<const GrpoLoss> grpo_losses() { return kLosses; }

const GrpoLoss* find_grpo_loss(std::string_view name) {
  for (const GrpoLoss& loss : kLosses)
    if (loss.name == name) return &loss;
  return nullptr;
}

TokenLoss clipped_loss(const TokenInputs& t, const OnPolicyOptions& o) {
  const double ratio = exact_exp(t.log_weight), low = 1.0 - o.epsilon, high = 1.0 + high_of(o);
  const double free = o.delta ? std::min(ratio, *o.delta) : ratio, clipped = std::clamp(ratio, low, high);
  const double a = free * t.advantage, b = clipped * t.advantage, slope = -ratio * t.advantage;
  const double free_slope = !o.delta || ratio <= *o.delta ? slope : 0.0, clipped_slope = ratio >= low && ratio <= high ? slope : 0.0;
  TokenLoss out{-(a < b ? a : b), a < b ? free_slope : b < a ? clipped_slope : 0.5 * (free_slope + clipped_slope), 0};  // a tie as torch.min
  out.low = free < low && t.advantage < 0;
  out.high = free > high && t.advantage > 0;
  return out;
}

double vespo_phi(double log_ratio, double advantage, const OnPolicyOptions& o) {
  const double log_weight = std::clamp(log_ratio, kLogFloor, 20.0);
  const double k = advantage >= 0 ? o.vespo_k_pos : o.vespo_k_neg, lambda = std::max(advantage >= 0 ? o.vespo_lambda_pos : o.vespo_lambda_neg, 1e-4);
  const double phi = exact_exp(lambda + k * log_weight - lambda * exact_exp(log_weight));
  return std::isfinite(phi) ? phi : std::isnan(log_ratio) ? log_ratio : 0.0;  // unlike TRL, a NaN stays one: the run must stop
}

CompletionLoss completion_loss(const GrpoLoss& loss, const CompletionInputs& c, double beta, const OnPolicyOptions& options,
                               std::span<double> slopes) {
  const size_t n = c.logprobs.size();
  CompletionLoss out;
  if (n == 0) return out;
  const bool sequence = by_sequence(options);
  const std::vector<double> weights = log_weights(c, options), ratios = correction(c, options, out);
  if (loss.phi) out.phi = vespo_phi(completion_log_ratio(c, ratios), c.advantage, options);
  const auto factor = [&](size_t t) {  // of the policy's term of a token
    const double kept = c.kept.empty() || c.kept[t] ? 1.0 : 0.0;
    return ratios.empty() || loss.phi ? kept : kept * ratios[ratios.size() == 1 ? 0 : t];
  };
  double shared = 0;  // by sequence: d value / d log weight, of which each token has an n-th
  for (size_t t = 0; t < n; ++t) {
    const TokenLoss token = loss.loss({weights[t], c.logprobs[t], c.advantage, out.phi}, options);
    const double f = factor(t);
    double by_weight = f * token.by_weight;
    out.value += f * token.value;
    slopes[t] = f * token.by_logprob;
    if (!c.reference.empty()) {
      const double ref = c.reference[t], estimate = kl_k3(c.logprobs[t], ref);
      const double corrected = options.use_bias_correction_kl ? exact_exp(weights[t]) : 1.0;
      out.kl += estimate * corrected;
      out.value += beta * estimate * corrected;
      slopes[t] += beta * corrected * kl_k3_slope(c.logprobs[t], ref);
      if (options.use_bias_correction_kl) by_weight += beta * estimate * corrected;
    }
    (sequence ? shared : slopes[t]) += by_weight;
    if (sequence && t > 0) continue;
    out.units += 1;
    out.low += token.low ? 1 : 0;
    out.high += token.high ? 1 : 0;
  }
  if (sequence)
    for (double& s : slopes) s += shared / static_cast<double>(n);
  return out;
}

}  // namespace hone::methods
