#pragma once
// Guards of on-policy runs (docs/guards.md): is there anything to learn from, do sampler and trainer agree, has the policy run away. They look
// at groups and completions, never at steps: what a step holds is the user's choice. All of them are pure functions of what was sampled, so
// that a resumed run stops where the run itself would have.
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "hone/train/metrics.h"
#include "hone/train/rollout_source.h"

namespace hone::train {

/// True where k of n say that a share is below `share`: the upper end of its one-sided 95 % interval (Clopper and Pearson, 1934) lies under it,
/// that is, where P(X <= k) < 0.05 for X ~ Binomial(n, share). For 0.02 and k = 0 that takes n = 149.
bool surely_below(int64_t k, int64_t n, double share);

/// Watches that rollouts have a signal. It stops a run when it is sure (surely_below 2 %), over the last kWindow groups, that
///   too few groups have spread   groups whose samples' rewards differ: nothing else is learned from
///   no completion ends           all are cut at the length limit (over completions)
///   a reward does not score      its verdicts are crashed or timed-out (over completions, by reward)
class SignalGuard {
 public:
  static constexpr size_t kWindow = 256;      // groups: 149 without spread in a row stop, and 1 useful one among 256
  static constexpr double kUseful = 0.02;     // share
  static constexpr int64_t kLeastGroups = 8;  // that completions must come from, before they are taken for more than one prompt's ways
  /// needs_spread: nothing is learned from a group whose rewards are all equal (not so with a value model).
  SignalGuard(std::vector<std::string> reward_names, int64_t max_completion_length, bool needs_spread = true)
      : names_(std::move(reward_names)), max_completion_length_(max_completion_length), needs_spread_(needs_spread) {}
  /// Takes the groups of a rollout, those that were replaced among them; says what is wrong, or nothing.
  std::string after_rollout(std::span<const DrawnGroup> groups, std::span<const DrawnGroup> replaced, const SamplingSetup& setup);
  Json state() const;
  void restore(const Json& state);

 private:
  struct Facts {  // of a group
    int64_t samples = 0, ended = 0, right = 0, unparsed = 0;
    bool spread = false;
    double least = 0, greatest = 0;  // total reward
    std::vector<int64_t> scored;     // samples, by reward
  };
  static Facts facts_of(const DrawnGroup& group, const SamplingSetup& setup);
  std::string why_no_spread() const;

  std::vector<std::string> names_;
  int64_t max_completion_length_;
  bool needs_spread_;
  std::deque<Facts> window_;
};

/// NaN of none.
double median_of(std::vector<double> values);

/// Watches a figure that must stay under a bound: the median of the last few values is above it.
class LevelGuard {
 public:
  LevelGuard(double bound, size_t window) : bound_(bound), size_(window) {}  // bound 0: off
  /// True the first time that the median is above the bound.
  bool exceeded(double value);
  /// Whether it has not begun to rise: the median is at most half the bound.
  bool sound() const;
  double median() const { return median_of(window_); }
  /// The last values, at most `window` of them, whether there is a bound or not.
  const std::vector<double>& window() const { return window_; }
  void restore(std::vector<double> window) { window_ = std::move(window); }

 private:
  double bound_;
  size_t size_;
  std::vector<double> window_;
  bool fired_ = false;
};

/// How far the completions of a rollout are from those at the run's start (its first kStart rollouts): in length and in repetition.
class DriftGuard {
 public:
  static constexpr size_t kStart = 10, kWindow = 10;  // rollouts
  static constexpr double kSlack = 64;                // tokens that may always be added: short answers grow by many times
  DriftGuard(double max_length_drift, double max_repetition_drift)
      : max_length_(max_length_drift),
        max_repetition_(max_repetition_drift),
        length_(max_length_drift, kWindow),
        repetition_(max_repetition_drift, kWindow) {}
  /// Takes the groups of a rollout; says what is wrong, or nothing.
  std::string after_rollout(std::span<const DrawnGroup> groups);
  /// completions/repetition, completions/length_drift (times the start's mean), completions/repetition_drift (above the start's) of that rollout.
  const Json& figures() const { return figures_; }
  bool sound() const { return length_.sound() && repetition_.sound(); }
  Json state() const;
  void restore(const Json& state);

 private:
  double max_length_, max_repetition_;
  LevelGuard length_, repetition_;
  std::vector<double> start_lengths_, start_repetitions_;  // means of the first rollouts
  Json figures_ = Json::object();
};

}  // namespace hone::train
