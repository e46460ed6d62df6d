#pragma once
// From rewards to advantages: how much better a completion is than what the policy gives for its prompt.
//
// r = sum_k w_k r_k over the rewards that a completion has (w = reward_weights); a completion without any is unscored: it is in no mean and
// no deviation, and its advantage is 0. With mean_g, dev_g over the scored completions of a group, mean_b, dev_b over all of the rollout:
//   group                r - mean_g, divided by dev_g + 1e-4 (scale_rewards group: GRPO, arXiv:2402.03300), by dev_b + 1e-4 (batch,
//                        arXiv:2508.08221), or not (none: Dr. GRPO, arXiv:2503.20783)
//   rloo                 r - the mean of the group's other scored completions (leave one out, arXiv:2402.14740)
//   reinforce_plus_plus  a = r - mean_g (REINFORCE++-baseline, arXiv:2501.03262; a = r where all groups are of one), then (a - mean_b(a)) / (dev_b(a)
//   + 1e-4)
// normalize_then_sum (GDPO, arXiv:2601.05242): each reward is normalised in its group, (r_k - mean_g) / (dev_g + 1e-4), then summed up with the
// weights, then normalised over the rollout.
//
// A group of which fewer than two completions are scored, or without spread, has advantages of exactly 0 (but for groups of one with
// reinforce_plus_plus): it teaches nothing.
// Departures from TRL 1.16: float64; a group with one scored completion counts as one without spread; frac_reward_zero_std is the share of
// such groups with every scale_rewards (TRL asks the whole batch's deviation with batch and with normalize_then_sum).
#include <optional>
#include <span>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/methods/on_policy.h"

namespace hone::methods {

/// By group and completion.
using ByGroup = std::vector<std::vector<double>>;

/// r of each completion, NaN of an unscored one. weights: one for each reward, or empty (all 1).
std::vector<double> weighted_rewards(const Group& group, std::span<const double> weights);

/// Whether the group teaches: two scored completions of it differ (with normalize_then_sum: in any reward that has a weight).
bool has_spread(const Group& group, const config::OnPolicyOptions& options);

/// The advantages of options.advantage_estimator.
ByGroup advantages_of(std::span<const Group> groups, const config::OnPolicyOptions& options);

/// Leave-one-out advantages of given rewards (NaN: unscored), normalised over the rollout where asked.
ByGroup leave_one_out(const ByGroup& rewards, bool normalize);

/// reward, reward_std, frac_reward_zero_std, rewards/NAME/{mean,std}; what cannot be said (no scored completion) is left out.
std::vector<std::pair<std::string, double>> reward_metrics(std::span<const Group> groups, std::span<const std::string> names,
                                                           const config::OnPolicyOptions& options);

/// completions/{mean,min,max}_length, completions/{mean,min,max}_terminated_length (0 where all were cut), completions/clipped_ratio.
std::vector<std::pair<std::string, double>> length_metrics(std::span<const Group> groups);

}  // namespace hone::methods
