#pragma once
// Guards that run beside the loop (docs/guards.md): a run cannot be silently wrong.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "hone/methods/method.h"
#include "hone/ops/parameter.h"

namespace hone::train {

/// Every trainable tensor must have had a nonzero gradient by the second step that had a signal; and an update with a learning rate above 0 must
/// have written it by the first one where it had a gradient, by the second in any case (LoRA's A has none before B has moved). Gradients of fused
/// tensors are looked at part by part.
class TrainableGuard {
 public:
  explicit TrainableGuard(std::vector<ops::Parameter*> parameters);
  /// After the backward of a step (`squares`: per parameter); a step whose gradients are all zero has no signal and does not count.
  /// Returns what is wrong, or empty.
  std::string after_backward(std::span<const double> squares);
  /// After an update with a learning rate above 0. Without one in between (warm-up begins at 0) a second step says nothing new: what begins at
  /// 0, as LoRA's B, still is.
  void moved() { moved_ = true; }
  /// Around the first two updates: call before and after the optimizer's step. Returns what is wrong, or empty.
  void before_update();
  std::string after_update();
  bool watching_update() const { return updates_ < 2 && std::find(written_.begin(), written_.end(), false) != written_.end(); }
  /// A resumed run has been through this.
  void skip() { updates_ = 2, signals_ = 2; }

 private:
  std::vector<ops::Parameter*> parameters_;
  std::vector<std::vector<bool>> seen_;  // per parameter and part
  std::vector<std::string> hashes_;      // of those that no update has written yet
  std::vector<bool> written_;
  int signals_ = 0;
  bool moved_ = true;  // since the last step that counted
  int updates_ = 0;
};

/// Watches a figure that must not rise: by how many nats a token the model has come to find what it should prefer less likely than the
/// reference did (Method::fall_metric). Learning from pairs can collapse: both completions become unlikely while the margin grows. The run has
/// fallen when the median of the last kWindow steps is above the bound, so that a few noisy steps stop nothing.
class FallGuard {
 public:
  static constexpr size_t kWindow = 10;                // steps
  explicit FallGuard(double bound) : bound_(bound) {}  // 0: off
  /// What is wrong, the first time; else empty.
  std::string after_step(double fall);
  /// Whether the fall has not begun: the median is at most half the bound, and the last step within it.
  bool sound() const;
  const std::vector<double>& window() const { return window_; }
  void restore(std::vector<double> window) { window_ = std::move(window); }

 private:
  double median() const;
  double bound_;
  std::vector<double> window_;
  bool fired_ = false;
};

/// Writes the rows of a step with a non-finite loss or gradient to run/nonfinite/step-N.jsonl: {"row","ids","segments","predict_from",
/// "targets","sequence_ids","weights"} a line; a segment is [begin, end, parent].
std::filesystem::path save_bad_batch(const std::filesystem::path& run, int64_t step, const methods::Method& method, std::span<const int64_t> rows);

}  // namespace hone::train
