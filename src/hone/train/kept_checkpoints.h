#pragma once
// Which checkpoints of a run stand: the periodic ones up to --save_total_limit, the best by --metric_for_best_model, and the last one from
// before a fall that a guard watches. No older one goes before a newer one has been read back.
#include <filesystem>
#include <limits>

#include "hone/config/run_config.h"
#include "hone/train/checkpoint.h"

namespace hone::train {

class KeptCheckpoints {
 public:
  KeptCheckpoints(std::filesystem::path run, const config::LoopOptions& options, bool evaluates);

  /// Room for the checkpoints that stand at once, the one being written, and the model. UserError (exit 4).
  void check_disk(int64_t total_steps, int64_t checkpoint_bytes, int64_t model_bytes) const;
  /// Whether the step has the best value so far; where it has and best ones are kept, its checkpoint is to be written (see best_saved).
  bool is_best(double value, int64_t step);
  bool keeps_best() const { return evaluates_ && (options_.save_steps > 0 || options_.load_best_model_at_end); }
  /// After the checkpoint of a best step was written: the best before goes, unless it stands for another reason.
  void best_saved();
  /// After the checkpoint of `step` was written; `sound`: from before any fall that a guard watches.
  void saved(int64_t step, bool sound);
  /// The checkpoints behind the last sound one go: the run has fallen. The step of that one, or -1.
  int64_t back_to_sound() const;
  /// The checkpoints behind `step` go; the newest one that is left, or -1 where there is none up to that step: then all stay.
  int64_t back_to(int64_t step) const;
  int64_t best_step() const { return best_step_; }

  /// As it stands in a checkpoint's progress.
  void write(Json& progress) const;
  void read(const Json& progress);

 private:
  std::filesystem::path run_;
  config::LoopOptions options_;
  bool evaluates_;
  double best_ = std::numeric_limits<double>::quiet_NaN();  // of metric_for_best_model
  int64_t best_step_ = -1, best_before_ = -1, sound_step_ = -1;
};

}  // namespace hone::train
