#pragma once
// What changes from step to step beside the tensors, as a checkpoint holds it, and whether a run is the one that is to go on.
#include <cstdint>
#include <filesystem>

#include "hone/train/metrics.h"

namespace hone::train {

struct Progress {
  int64_t step = 0;    // finished steps, applied or not
  int64_t tokens = 0;  // real input tokens so far
  int64_t bad_in_a_row = 0;
  int64_t bad_steps = 0;  // steps that were not applied
  int64_t largest_micro_batch = 0;
  double seconds = 0;  // of training so far, over all starts

  Json json() const;
  static Progress from(const Json& json, int64_t step);
};

/// UserError that names every field in which the run that stands there differs from this one.
void compare_identity(const Json& recorded, const Json& now, const std::filesystem::path& run);

}  // namespace hone::train
