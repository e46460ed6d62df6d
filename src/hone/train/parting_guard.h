#pragma once
// The guard against reward hacking: the reward that is trained on rises while the score of held-out prompts falls.
//
// At evaluation number t (from 1) the score of every held-out prompt is set against its score at the best evaluation so far (by the mean), d = then
// minus now. Had the score's law not changed, each d would be as likely to be -d, and (Hoeffding 1963 for signs that are drawn; no assumption about
// the scores themselves)
//
//     P(sum d >= s) <= exp(-s^2 / (2 sum d^2))
//
// That bound must fall below level * 6 / (pi^2 t^2 (t - 1)): over every t and over each of the t - 1 evaluations that could be the best one
// these sum to `level`, so that a run of any length whose score does not fall is stopped with a chance of at most that. With n prompts
// the bound is at least exp(-n / 2): fewer than about ten cannot stop a run, and at the 50th evaluation it takes about 35.
// The train reward rises if the rollouts since the last evaluation have a higher mean reward than those before the best one, by 1.645 standard errors
// (one-sided 5 %) where both have at least two rollouts.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hone/train/metrics.h"

namespace hone::train {

class PartingGuard {
 public:
  explicit PartingGuard(double level) : level_(level) {}  // 0: off
  /// The mean reward of a fresh rollout.
  void rollout(double reward);
  /// The score of each held-out prompt (NaN: none) after `step` steps; says what is wrong, or nothing. It speaks once.
  std::string evaluated(int64_t step, std::span<const double> scores);
  /// The step of the best evaluation; -1: there was none.
  int64_t best_step() const { return best_step_; }
  Json state() const;
  void restore(const Json& state);

 private:
  bool rising() const;

  double level_;
  int64_t evaluations_ = 0, best_step_ = -1;
  std::vector<double> best_;                       // scores at the best evaluation
  std::vector<double> rewards_, rewards_at_best_;  // of the rollouts since the last evaluation; before the best one
  bool spoken_ = false;
};

}  // namespace hone::train
