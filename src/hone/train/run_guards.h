#pragma once
// Every guard that runs beside the loop, in one place: each call says what is wrong, or nothing (docs/guards.md).
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hone/train/guards.h"
#include "hone/train/loop.h"
#include "hone/train/parting_guard.h"
#include "hone/train/rollout_guards.h"

namespace hone::train {

class RunGuards {
 public:
  RunGuards(std::vector<ops::Parameter*> parameters, const TrainJob& job);

  std::string after_rollout(const RolloutSource& rollouts);
  /// Figures of the rollout at hand, for the line of a step on it.
  const Json& rollout_figures() const { return drift_.figures(); }
  /// The score of each held-out prompt of an on-policy run.
  std::string after_evaluation(int64_t step, std::span<const double> scores) { return parting_.evaluated(step, scores); }
  /// Where the held-out score was best; -1: nowhere.
  int64_t best_evaluation() const { return parting_.best_step(); }
  std::string after_backward(std::span<const double> squares) { return trainable_.after_backward(squares); }
  bool watching_update() const { return trainable_.watching_update(); }
  void before_update() { trainable_.before_update(); }
  std::string after_update() { return trainable_.after_update(); }
  void moved() { trainable_.moved(); }
  /// From the line of a finite step; `fresh`: the policy was still the one that sampled its rows.
  std::string after_step(const Json& line, bool fresh);

  /// Whether the run has not begun to fall, as far as a guard watches that.
  bool sound() const { return fall_.sound() && kl_.sound() && drift_.sound(); }
  /// A resumed run has been through its first steps.
  void skip_first_steps() { trainable_.skip(); }
  /// `kl` of the last steps, at most ten; none in a run that does not measure it.
  const std::vector<double>& last_kls() const { return kl_.window(); }
  void write(Json& progress) const;
  void restore(const Json& progress);

 private:
  const char* fall_metric_;
  double max_kl_, max_gap_;
  TrainableGuard trainable_;
  FallGuard fall_;
  LevelGuard kl_;
  DriftGuard drift_;
  PartingGuard parting_;
  std::optional<SignalGuard> signal_;  // on-policy
};

}  // namespace hone::train
