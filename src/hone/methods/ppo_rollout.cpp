#include "hone/methods/ppo_rollout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "hone/base/error.h"

namespace hone::methods {
namespace {

// The weighted sum of what the reward functions gave; empty: none gave anything.
std::optional<double> weighted_sum(const SampledCompletion& completion, const std::vector<double>& weights) {
  std::optional<double> sum;
  if (completion.broken) return sum;
  for (size_t k = 0; k < completion.rewards.size(); ++k)
    if (completion.rewards[k]) sum = sum.value_or(0.0) + (weights.empty() ? 1.0 : weights.at(k)) * *completion.rewards[k];
  return sum;
}

}  // namespace

double repetition(std::span<const int32_t> ids) {
  constexpr size_t kLength = 4;
  if (ids.size() < kLength + 1) return 0;
  std::set<std::array<int32_t, kLength>> distinct;
  const size_t all = ids.size() - kLength + 1;
  for (size_t i = 0; i < all; ++i) distinct.insert({ids[i], ids[i + 1], ids[i + 2], ids[i + 3]});
  return 1.0 - static_cast<double>(distinct.size()) / static_cast<double>(all);
}

PpoRollout::PpoRollout(const config::PpoOptions& options, std::vector<double> reward_weights, std::vector<std::string> reward_names)
    : options_(options), weights_(std::move(reward_weights)), reward_names_(std::move(reward_names)) {
  k3_ = options_.kl_estimator == config::KlEstimator::k3 || (options_.kl_estimator == config::KlEstimator::automatic && options_.kl_in_loss);
  check(k3_ || !options_.kl_in_loss, "k1 in the loss has no gradient of the KL");
}

void PpoRollout::begin(std::vector<Group> groups, PpoState& state) {
  groups_ = std::move(groups);
  rows_.assign(groups_.size(), {});
  reference_ = ReferenceLogprobs(num_rows());
  metrics_.clear();
  kl_coef_ = state.kl_coef;
  fresh = true;
  warming = state.rollouts++ < options_.critic_warmup;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const std::vector<int32_t>& prompt = groups_[g].prompt;
    PpoRow& row = rows_[g];
    for (size_t s = 0; s < groups_[g].completions.size(); ++s) {
      const SampledCompletion& c = groups_[g].completions[s];
      const std::optional<double> score = weighted_sum(c, weights_);
      if (!score || c.ids.empty()) continue;
      check(c.logprobs.size() == c.ids.size(), "{} log-probabilities of {} tokens", c.logprobs.size(), c.ids.size());
      row.episodes.push_back({static_cast<int64_t>(s), static_cast<int64_t>(c.ids.size()), !c.truncated, *score});
      std::vector<int32_t>& ids = row.ids.emplace_back(prompt);
      ids.insert(ids.end(), c.ids.begin(), c.ids.end());
      std::vector<float>& weights = row.weights.emplace_back(prompt.size(), 0.0f);
      weights.resize(ids.size(), 1.0f);
      row.old_logprobs.insert(row.old_logprobs.end(), c.logprobs.begin(), c.logprobs.end());
    }
    if (!row.episodes.empty()) continue;
    row.ids.push_back(prompt);  // nothing of it has a score: a row must have tokens
    row.weights.emplace_back(prompt.size(), 0.0f);
  }
  scale_scores(state);
}

// TRL before 0.12 (use_score_scaling, use_score_norm, score_clip): by the running deviation of all scores so far, those of this rollout included.
void PpoRollout::scale_scores(PpoState& state) {
  for (const PpoRow& row : rows_)
    for (const PpoEpisode& e : row.episodes) state.scores.add(e.score);
  const double deviation = std::sqrt(state.scores.variance());  // 0 while all scores are the same: nothing to scale by
  const double scale = options_.use_score_scaling && deviation > 0 ? 1.0 / (deviation + 1e-8) : 1.0;
  const double middle = options_.use_score_scaling && options_.use_score_norm ? state.scores.mean : 0.0;
  for (PpoRow& row : rows_)
    for (PpoEpisode& e : row.episodes) {
      e.score = (e.score - middle) * scale;
      if (options_.reward_clip) e.score = std::clamp(e.score, -*options_.reward_clip, *options_.reward_clip);
      if (options_.missing_eos_penalty && !e.finished) e.score -= *options_.missing_eos_penalty;
    }
}

void PpoRollout::set_values(int64_t row, std::vector<float> values) {
  check(static_cast<int64_t>(values.size()) == rows_[row].states(), "{} values of {} states", values.size(), rows_[row].states());
  rows_[row].values = std::move(values);
}

// Of the tokens of an episode whose first prediction is number `at` of its row.
std::vector<double> PpoRollout::token_kls(int64_t row, const PpoEpisode& episode, int64_t at) const {
  const std::span<const float> reference = reference_.of(row);
  check(static_cast<int64_t>(reference.size()) == rows_[row].predictions(), "{} log-probabilities of the reference, {} predictions", reference.size(),
        rows_[row].predictions());
  std::vector<double> kls;
  for (int64_t t = at; t < at + episode.tokens; ++t) kls.push_back(token_kl(rows_[row].old_logprobs[t], reference[t], k3_));
  return kls;
}

void PpoRollout::finish(PpoState& state) {
  std::vector<double> rewards, values, advantages, returns;
  double kl = 0, entropy = 0, episodes = 0;
  for (int64_t r = 0; r < num_rows(); ++r) {
    int64_t at = 0;
    for (const PpoEpisode& e : rows_[r].episodes) {
      const std::vector<double> kls = token_kls(r, e, at);
      for (int64_t t = 0; t < e.states(); ++t)
        rewards.push_back((t < e.tokens && !options_.kl_in_loss ? -kl_coef_ * kls[t] : 0.0) + (t + 1 == e.states() ? e.score : 0.0));
      double episode_kl = 0, episode_entropy = 0;
      for (const double k : kls) episode_kl += k;
      for (int64_t t = at; t < at + e.tokens; ++t) episode_entropy -= rows_[r].old_logprobs[t];
      kl += episode_kl, entropy += episode_entropy, episodes += 1;
      at += e.tokens;
    }
  }
  if (options_.whiten_rewards) whiten(rewards, /*shift_mean=*/false);
  const double* reward = rewards.data();
  for (PpoRow& row : rows_) {
    row.returns.clear();
    const float* value = row.values.data();
    for (const PpoEpisode& e : row.episodes) {
      const std::vector<double> v(value, value + e.states());
      const Gae g = gae({reward, v.size()}, v, options_.gamma, options_.lam);
      advantages.insert(advantages.end(), g.advantages.begin(), g.advantages.begin() + e.tokens);
      returns.insert(returns.end(), g.returns.begin(), g.returns.end());
      values.insert(values.end(), v.begin(), v.end());
      row.returns.insert(row.returns.end(), g.returns.begin(), g.returns.end());
      row.returns.resize(row.returns.size() + static_cast<size_t>(e.finished ? 0 : 1));
      reward += e.states();
      value += e.tokens + 1;
    }
  }
  whiten(advantages, /*shift_mean=*/true);
  const double* advantage = advantages.data();
  for (PpoRow& row : rows_) {
    row.advantages.assign(advantage, advantage + row.predictions());
    advantage += row.predictions();
  }
  summarise(kl, options_.kl_in_loss ? 0.0 : -kl_coef_ * kl, entropy, episodes, kl_coef_);
  if (const double explained = explained_variance(returns, values); std::isfinite(explained)) metrics_.emplace_back("val/explained_var", explained);
  report_completions();
  if (options_.kl_target && episodes > 0 && !warming)  // while the policy waits its KL is 0 whatever the coefficient
    state.kl_coef = adapted_kl_coef(state.kl_coef, kl / episodes, *options_.kl_target, episodes, options_.kl_horizon);
}

// TRL's figures of a rollout: means over its completions.
void PpoRollout::summarise(double kl, double non_score, double entropy, double episodes, double coefficient) {
  double scores = 0, ended = 0;
  for (const PpoRow& row : rows_)
    for (const PpoEpisode& e : row.episodes) {
      scores += e.score;
      ended += e.finished ? 1 : 0;
    }
  const double n = std::max(1.0, episodes);
  metrics_ = {{"objective/kl", kl / n},
              {"objective/entropy", entropy / n},
              {"objective/non_score_reward", non_score / n},
              {"objective/rlhf_reward", (non_score + scores) / n},
              {"objective/scores", scores / n},
              {"objective/kl_coef", coefficient},
              {"val/num_eos_tokens", ended}};
}

// By the keys of TRL's GRPO, which has what its PPO lacks. Extremes and deviations of all completions, scored or not.
void PpoRollout::report_completions() {
  RunningMoments totals, lengths;
  std::vector<RunningMoments> rewards(reward_names_.size());
  double cut = 0;
  for (const Group& group : groups_)
    for (const SampledCompletion& c : group.completions) {
      lengths.add(static_cast<double>(c.ids.size()));
      cut += c.truncated ? 1 : 0;
      if (const std::optional<double> total = weighted_sum(c, weights_)) totals.add(*total);
      for (size_t k = 0; k < rewards.size() && k < c.rewards.size(); ++k)
        if (c.rewards[k]) rewards[k].add(*c.rewards[k]);
    }
  metrics_.emplace_back("reward", totals.mean);
  metrics_.emplace_back("reward_std", std::sqrt(totals.variance()));
  for (size_t k = 0; k < rewards.size(); ++k) {
    metrics_.emplace_back("rewards/" + reward_names_[k] + "/mean", rewards[k].mean);
    metrics_.emplace_back("rewards/" + reward_names_[k] + "/std", std::sqrt(rewards[k].variance()));
  }
  metrics_.emplace_back("completions/mean_length", lengths.mean);
  metrics_.emplace_back("completions/clipped_ratio", cut / std::max(1.0, lengths.count));
}

std::vector<double> PpoRollout::advantages(int64_t row) const {
  std::vector<double> means(groups_[row].completions.size(), std::numeric_limits<double>::quiet_NaN());
  const double* a = rows_[row].advantages.data();
  for (const PpoEpisode& e : rows_[row].episodes) {
    double sum = 0;
    for (int64_t t = 0; t < e.tokens; ++t) sum += *a++;
    means[e.sample] = sum / static_cast<double>(e.tokens);
  }
  return means;
}

}  // namespace hone::methods
