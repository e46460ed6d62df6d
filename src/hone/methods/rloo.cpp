#include "hone/methods/rloo.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "hone/base/error.h"
#include "hone/methods/advantages.h"
#include "hone/methods/grpo_losses.h"
#include "hone/methods/rl_math.h"

namespace hone::methods {

Rloo::Rloo(const config::RunConfig& config, std::vector<std::string> reward_names) : GroupMethod(config, std::move(reward_names)) {
  check(options_.reward_clip_range.empty() || options_.reward_clip_range.size() == 2, "{} bounds of reward_clip_range",
        options_.reward_clip_range.size());
  options_.delta.reset();  // TRL's RLOO has none
}

void Rloo::begin(std::vector<Group> groups) {
  GroupMethod::begin(std::move(groups));
  advantages_.clear();
  if (beta_ == 0) referenced();
}

void Rloo::referenced() {
  std::vector<std::vector<double>> rewards;
  double moved = 0, tokens = 0;
  for (int64_t row = 0; row < num_rows(); ++row) {
    std::vector<double> own = weighted_rewards(groups()[row], options_.reward_weights);
    for (int64_t i = 0; i < std::ssize(own); ++i) {
      if (!options_.reward_clip_range.empty() && own[i] == own[i])
        own[i] = std::min(std::max(own[i], options_.reward_clip_range[0]), options_.reward_clip_range[1]);
      if (beta_ == 0) continue;
      const std::span<const float> reference = reference_of({row, i, 0, 0, trained_tokens(row, i)});
      double kl = 0;
      for (size_t t = 0; t < reference.size(); ++t) kl += kl_k1(completion(row, i).logprobs[t], reference[t]);
      own[i] -= beta_ * kl;
      moved += kl;
      tokens += static_cast<double>(reference.size());
    }
    rewards.push_back(std::move(own));
  }
  kl_ = moved / std::max(1.0, tokens);
  advantages_ = leave_one_out(rewards, options_.normalize_advantages);
}

bool Rloo::has_gradient(int64_t row) const {
  if (!options_.skip_zero_advantage) return true;
  for (size_t i = 0; i < advantages_[row].size(); ++i)
    if (advantages_[row][i] != 0 && trained_tokens(row, static_cast<int64_t>(i)) > 0) return true;
  return false;
}

std::vector<double> Rloo::counts(std::span<const int64_t> rows) const {
  const Counts c = count(rows);
  return {c.completions, c.completions, c.tokens, c.trained_completions};
}

std::optional<at::Tensor> Rloo::known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const {
  if (!one_update()) return std::nullopt;
  Forward forward;
  forward.rows = rows;
  forward.num_sequences = batch.num_sequences;
  forward.weights = batch.weights;
  std::vector<double> slopes;
  for (const Place& place : places(forward)) slopes.insert(slopes.end(), place.count, -advantages_[place.row][place.index]);
  // The same roundings as the backward of evaluate: 1/count to float32, times the slope in float32.
  return at::tensor(slopes, at::kDouble).to(batch.weights.device(), at::kFloat) * static_cast<float>(1.0 / step.counts[0]);
}

MethodOutput Rloo::evaluate(const Forward& forward, const StepInputs& step) const {
  const std::vector<double>& reported = step.pass_counts.empty() ? step.counts : step.pass_counts;
  const Counts counts{reported[1], reported[2], reported[3]};
  const std::vector<double> logprobs = cpu_doubles(forward.logprobs.logprobs);
  const std::vector<Place> all = places(forward);
  std::vector<double> values, slopes, low, high, region;
  for (const Place& place : all) {
    double log_ratio = 0;
    for (int64_t t = 0; t < place.count; ++t) {
      const double now = logprobs[place.begin + t], old = completion(place.row, place.index).logprobs[t];
      log_ratio += now - (one_update() ? now : old);
    }
    const TokenLoss loss = clipped_loss({log_ratio, 0.0, advantages_[place.row][place.index]}, options_);
    values.push_back(loss.value);
    slopes.insert(slopes.end(), place.count, loss.by_weight);
    low.push_back(loss.low);
    high.push_back(loss.high);
    region.push_back(loss.low || loss.high);
  }
  MethodOutput out;
  out.losses.push_back({"loss", with_slopes(values, forward.logprobs.logprobs, slopes, forward), step.counts[0]});
  const auto per_sequence = [&](const at::Tensor& v) { return ops::sequence_sum(v, forward.sequence_ids, forward.num_sequences); };
  out.metrics.push_back({"entropy", per_sequence(forward.logprobs.entropy.detach()), counts.tokens});
  const auto add = [&](const char* name, const std::vector<double>& values, Reduce reduce = Reduce::sum) {
    out.metrics.push_back({name, at::tensor(values, at::kDouble), counts.completions, reduce});
  };
  add("clip_ratio/low_mean", low);
  add("clip_ratio/low_min", low, Reduce::minimum);
  add("clip_ratio/high_mean", high);
  add("clip_ratio/high_max", high, Reduce::maximum);
  add("clip_ratio/region_mean", region);
  report_gap(out.metrics, all, logprobs, counts);
  return out;
}

std::vector<std::pair<std::string, double>> Rloo::rollout_metrics() const {
  auto all = GroupMethod::rollout_metrics();
  if (beta_ != 0) all.emplace_back("kl", kl_);
  return all;
}

}  // namespace hone::methods
