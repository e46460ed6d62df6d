#include "hone/methods/advantages.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hone/base/error.h"
#include "hone/methods/rl_math.h"

namespace hone::methods {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kTiny = 1e-4;  // TRL's, added to a deviation

bool differ(std::span<const double> rewards) {
  std::optional<double> first;
  for (double r : rewards) {
    if (std::isnan(r)) continue;
    if (first && r != *first) return true;
    first = r;
  }
  return false;
}

std::vector<double> rewards_number(const Group& group, size_t k) {
  std::vector<double> rewards;
  for (const SampledCompletion& c : group.completions) rewards.push_back(c.broken ? kNaN : c.rewards[k].value_or(kNaN));
  return rewards;
}

std::vector<double> flat(const ByGroup& values) {
  std::vector<double> all;
  for (const std::vector<double>& group : values) all.insert(all.end(), group.begin(), group.end());
  return all;
}

// (value - mean) / (deviation + 1e-4) over the rollout; fewer than two values have no deviation and become 0.
void normalise(ByGroup& values) {
  const Statistics batch = statistics(flat(values));
  for (std::vector<double>& group : values)
    for (double& v : group) v = batch.count > 1 ? (v - batch.mean) / (batch.deviation + kTiny) : std::isnan(v) ? kNaN : 0.0;
}

ByGroup group_relative(const ByGroup& rewards, config::ScaleRewards scale) {
  const Statistics batch = statistics(flat(rewards));
  ByGroup out = rewards;
  for (std::vector<double>& group : out) {
    const Statistics own = statistics(group);
    const double divisor = scale == config::ScaleRewards::none ? 1.0 : (scale == config::ScaleRewards::batch ? batch : own).deviation + kTiny;
    for (double& r : group) r = (r - own.mean) / divisor;
  }
  return out;
}

ByGroup normalised_then_summed(std::span<const Group> groups, std::span<const double> weights) {
  ByGroup out;
  for (const Group& group : groups) {
    std::vector<double> sums = weighted_rewards(group, weights);
    for (double& s : sums) s = std::isnan(s) ? kNaN : 0.0;
    const size_t kinds = group.completions.empty() ? 0 : group.completions[0].rewards.size();
    for (size_t k = 0; k < kinds; ++k) {
      const std::vector<double> rewards = rewards_number(group, k);
      if (!differ(rewards)) continue;  // contributes 0
      const Statistics own = statistics(rewards);
      for (size_t i = 0; i < rewards.size(); ++i)
        if (!std::isnan(rewards[i])) sums[i] += (weights.empty() ? 1.0 : weights[k]) * ((rewards[i] - own.mean) / (own.deviation + kTiny));
    }
    out.push_back(std::move(sums));
  }
  normalise(out);
  return out;
}

ByGroup reinforce_plus_plus(const ByGroup& rewards, bool of_one) {
  ByGroup out = rewards;
  for (std::vector<double>& group : out) {
    const double baseline = of_one ? 0.0 : statistics(group).mean;
    for (double& r : group) r -= baseline;
  }
  normalise(out);
  return out;
}

// Exactly 0 for what is unscored, and for groups that teach nothing.
void settle(ByGroup& advantages, const std::vector<char>& teaches) {
  for (size_t g = 0; g < advantages.size(); ++g)
    for (double& a : advantages[g])
      if (!teaches[g] || std::isnan(a)) a = 0.0;
}

}  // namespace

std::vector<double> weighted_rewards(const Group& group, std::span<const double> weights) {
  std::vector<double> sums;
  for (const SampledCompletion& c : group.completions) {
    check(weights.empty() || weights.size() == c.rewards.size(), "{} reward_weights of {} rewards", weights.size(), c.rewards.size());
    double sum = 0;
    bool scored = false;
    for (size_t k = 0; k < c.rewards.size(); ++k) {
      if (!c.rewards[k]) continue;
      check(std::isfinite(*c.rewards[k]), "reward {} is {}", k, *c.rewards[k]);
      sum += (weights.empty() ? 1.0 : weights[k]) * *c.rewards[k];
      scored = !c.broken;
    }
    sums.push_back(scored ? sum : kNaN);
  }
  return sums;
}

bool has_spread(const Group& group, const config::OnPolicyOptions& options) {
  if (options.multi_objective_aggregation == config::RewardAggregation::sum_then_normalize || group.completions.empty())
    return differ(weighted_rewards(group, options.reward_weights));
  for (size_t k = 0; k < group.completions[0].rewards.size(); ++k)
    if ((options.reward_weights.empty() || options.reward_weights[k] != 0) && differ(rewards_number(group, k))) return true;
  return false;
}

ByGroup advantages_of(std::span<const Group> groups, const config::OnPolicyOptions& options) {
  using config::AdvantageEstimator;
  ByGroup rewards;
  std::vector<char> teaches;
  const bool of_one = options.advantage_estimator == AdvantageEstimator::reinforce_plus_plus &&
                      std::all_of(groups.begin(), groups.end(), [](const Group& g) { return g.completions.size() == 1; });
  for (const Group& group : groups) {
    rewards.push_back(weighted_rewards(group, options.reward_weights));
    teaches.push_back(of_one || has_spread(group, options));
  }
  ByGroup out;
  if (options.advantage_estimator == AdvantageEstimator::rloo)
    out = leave_one_out(rewards, false);
  else if (options.advantage_estimator == AdvantageEstimator::reinforce_plus_plus)
    out = reinforce_plus_plus(rewards, of_one);
  else if (options.multi_objective_aggregation == config::RewardAggregation::normalize_then_sum)
    out = normalised_then_summed(groups, options.reward_weights);
  else
    out = group_relative(rewards, options.scale_rewards);
  settle(out, teaches);
  return out;
}

ByGroup leave_one_out(const ByGroup& rewards, bool normalize) {
  ByGroup out = rewards;
  std::vector<char> teaches;
  for (std::vector<double>& group : out) {
    const Statistics own = statistics(group);
    const bool spread = differ(group);
    for (double& r : group) {
      const double others = (own.mean * static_cast<double>(own.count) - r) / static_cast<double>(own.count - 1);
      if (!std::isnan(r)) r = own.count < 2 ? kNaN : spread ? r - others : 0.0;
    }
    teaches.push_back(spread);
  }
  if (normalize) normalise(out);
  settle(out, teaches);
  return out;
}

std::vector<std::pair<std::string, double>> reward_metrics(std::span<const Group> groups, std::span<const std::string> names,
                                                           const config::OnPolicyOptions& options) {
  std::vector<std::pair<std::string, double>> out;
  const auto add = [&](const std::string& name, double value) {
    if (!std::isnan(value)) out.emplace_back(name, value);
  };
  ByGroup rewards;
  double without_spread = 0;
  for (const Group& group : groups) {
    rewards.push_back(weighted_rewards(group, options.reward_weights));
    without_spread += has_spread(group, options) ? 0 : 1;
  }
  const Statistics all = statistics(flat(rewards));
  add("reward", all.mean);
  add("reward_std", all.deviation);
  add("frac_reward_zero_std", without_spread / static_cast<double>(groups.size()));
  for (size_t k = 0; k < names.size(); ++k) {
    std::vector<double> values;
    for (const Group& group : groups) {
      const std::vector<double> part = rewards_number(group, k);
      values.insert(values.end(), part.begin(), part.end());
    }
    const Statistics own = statistics(values);
    add("rewards/" + names[k] + "/mean", own.mean);
    add("rewards/" + names[k] + "/std", own.deviation);
  }
  return out;
}

std::vector<std::pair<std::string, double>> length_metrics(std::span<const Group> groups) {
  std::vector<double> all, ended;
  for (const Group& group : groups)
    for (const SampledCompletion& c : group.completions) {
      all.push_back(static_cast<double>(c.ids.size()));
      if (!c.truncated) ended.push_back(all.back());
    }
  if (all.empty()) return {};
  const double clipped = 1.0 - static_cast<double>(ended.size()) / static_cast<double>(all.size());
  if (ended.empty()) ended.push_back(0.0);
  const auto extremes = [](const std::vector<double>& v) { return std::minmax_element(v.begin(), v.end()); };
  const auto [low, high] = extremes(all);
  const auto [ended_low, ended_high] = extremes(ended);
  return {{"completions/mean_length", statistics(all).mean},
          {"completions/min_length", *low},
          {"completions/max_length", *high},
          {"completions/mean_terminated_length", statistics(ended).mean},
          {"completions/min_terminated_length", *ended_low},
          {"completions/max_terminated_length", *ended_high},
          {"completions/clipped_ratio", clipped}};
}

}  // namespace hone::methods
