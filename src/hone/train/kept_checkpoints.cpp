#include "hone/train/kept_checkpoints.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "hone/base/error.h"
#include "hone/base/files.h"

namespace hone::train {
namespace {
constexpr double kMiB = 1024.0 * 1024.0;
}

KeptCheckpoints::KeptCheckpoints(std::filesystem::path run, const config::LoopOptions& options, bool evaluates)
    : run_(std::move(run)), options_(options), evaluates_(evaluates) {}

void KeptCheckpoints::check_disk(int64_t total_steps, int64_t checkpoint_bytes, int64_t model_bytes) const {
  const int64_t written = options_.save_steps > 0 ? (total_steps + options_.save_steps - 1) / options_.save_steps : 0;  // one at the end, too
  const int64_t kept = std::min(written, options_.save_total_limit.value_or(written)) + (keeps_best() ? 1 : 0);
  const int64_t standing = options_.resume ? static_cast<int64_t>(list_checkpoints(run_).size()) : 0;
  const double needed =
      static_cast<double>(checkpoint_bytes) * static_cast<double>(std::max<int64_t>(0, kept - standing) + 1) + static_cast<double>(model_bytes);
  const double free = static_cast<double>(free_bytes(run_));
  if (free < needed)
    fail_resource(
        "{}: {:.0f} MiB are free but the checkpoints and the model of this run need {:.0f} MiB; free some, or give --save_total_limit or a larger "
        "--save_steps",
        run_.string(), free / kMiB, needed / kMiB);
}

bool KeptCheckpoints::is_best(double value, int64_t step) {
  const bool lower = options_.metric_for_best_model == config::BestMetric::eval_loss;
  if (!std::isfinite(value) || !(std::isnan(best_) || (lower ? value < best_ : value > best_))) return false;
  best_ = value;
  best_before_ = std::exchange(best_step_, step);
  return true;
}

void KeptCheckpoints::best_saved() {
  const bool periodic = options_.save_steps > 0 && best_before_ % options_.save_steps == 0;
  if (!options_.save_total_limit && best_before_ > 0 && best_before_ != sound_step_ && !periodic) remove_checkpoint(run_, best_before_, best_step_);
}

void KeptCheckpoints::saved(int64_t step, bool sound) {
  if (sound) sound_step_ = step;
  std::vector<int64_t> keep;
  for (const int64_t kept : {best_step_, sound_step_})
    if (kept >= 0) keep.push_back(kept);
  if (options_.save_total_limit) rotate_checkpoints(run_, *options_.save_total_limit, keep);
}

int64_t KeptCheckpoints::back_to_sound() const { return back_to(sound_step_); }

int64_t KeptCheckpoints::back_to(int64_t step) const {
  const std::vector<int64_t> all = list_checkpoints(run_);
  int64_t kept = -1;
  for (const int64_t there : all)
    if (there <= step) kept = there;
  for (const int64_t there : all)
    if (kept >= 0 && there > kept) remove_checkpoint(run_, there, kept);
  return kept;
}

void KeptCheckpoints::write(Json& progress) const {
  progress["best"] = std::isnan(best_) ? Json(nullptr) : Json(best_);
  progress["best_step"] = best_step_;
  progress["sound_step"] = sound_step_;
}

void KeptCheckpoints::read(const Json& progress) {
  if (!progress.at("best").is_null()) best_ = progress.at("best");
  best_step_ = progress.at("best_step");
  sound_step_ = progress.value("sound_step", int64_t{-1});
}

}  // namespace hone::train
