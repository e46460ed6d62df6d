#include "hone/train/parting_guard.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace hone::train {
namespace {

double average(std::span<const double> values) {
  double sum = 0, count = 0;
  for (const double v : values)
    if (std::isfinite(v)) sum += v, count += 1;
  return count > 0 ? sum / count : std::nan("");
}

// Squared standard error of the mean.
double squared_error(std::span<const double> values) {
  const double mean = average(values), n = static_cast<double>(values.size());
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return squares / (n * (n - 1));
}

// The bound of the header, 1 where the score has not fallen.
double chance_of_fall(std::span<const double> then, std::span<const double> now) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < std::min(then.size(), now.size()); ++i) {
    const double d = then[i] - now[i];
    if (std::isfinite(d)) sum += d, squares += d * d;
  }
  return sum > 0 ? std::exp(-sum * sum / (2 * squares)) : 1.0;
}

}  // namespace

void PartingGuard::rollout(double reward) {
  if (level_ > 0 && std::isfinite(reward)) rewards_.push_back(reward);
}

bool PartingGuard::rising() const {
  if (rewards_.empty() || rewards_at_best_.empty()) return false;
  const double rise = average(rewards_) - average(rewards_at_best_);
  if (rewards_.size() < 2 || rewards_at_best_.size() < 2) return rise > 0;
  return rise > 1.645 * std::sqrt(squared_error(rewards_) + squared_error(rewards_at_best_));
}

std::string PartingGuard::evaluated(int64_t step, std::span<const double> scores) {
  const double mean = average(scores);
  if (!(level_ > 0) || !std::isfinite(mean)) return {};
  const auto t = static_cast<double>(++evaluations_);
  if (best_step_ < 0 || mean > average(best_)) {
    best_.assign(scores.begin(), scores.end());
    best_step_ = step;
    if (!rewards_.empty()) rewards_at_best_ = std::exchange(rewards_, {});  // without a rollout since the last one they are those before it
    return {};
  }
  const double chance = chance_of_fall(best_, scores), allowed = level_ * 6 / (std::numbers::pi * std::numbers::pi * t * t * (t - 1));
  std::string problem;
  if (!spoken_ && chance < allowed && rising()) {
    spoken_ = true;
    problem = fmt::format(
        "train reward and held-out score part: since step {} the train reward rose from {:.4g} to {:.4g} and the score of {} held-out prompts "
        "fell from {:.4g} to {:.4g} (by chance: at most {:.1g}); the policy exploits its reward: raise --kl_coef or --beta, lower --learning_rate, "
        "or mend the reward",
        best_step_, average(rewards_at_best_), average(rewards_), scores.size(), average(best_), mean, chance);
  }
  rewards_.clear();
  return problem;
}

Json PartingGuard::state() const {
  return {{"evaluations", evaluations_},         {"best_step", best_step_}, {"best", best_}, {"rewards", rewards_},
          {"rewards_at_best", rewards_at_best_}, {"spoken", spoken_}};
}

void PartingGuard::restore(const Json& state) {
  evaluations_ = state.at("evaluations");
  best_step_ = state.at("best_step");
  best_.clear();
  for (const Json& score : state.at("best")) best_.push_back(score.is_null() ? std::nan("") : score.get<double>());
  rewards_ = state.at("rewards").get<std::vector<double>>();
  rewards_at_best_ = state.at("rewards_at_best").get<std::vector<double>>();
  spoken_ = state.at("spoken");
}

}  // namespace hone::train
