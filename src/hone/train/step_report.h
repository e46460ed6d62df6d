#pragma once
// What a step says of itself: its line of metrics.jsonl, and the words beside the progress bar.
#include <string>

#include "hone/train/metrics.h"
#include "hone/train/optimizer.h"
#include "hone/train/rollout_source.h"
#include "hone/train/step.h"

namespace hone::train {

/// "1h05m", "3m20s", "12s".
std::string duration(double seconds);

/// The bytes that a run holds, by part.
MemoryParts memory_parts(std::span<const Pass> passes, const Adamw& optimizer, double activation_bytes);

/// Seconds and tokens/s of sampling, scoring and training; `training`: seconds of the step less the two others, `tokens`: trained on.
void add_times(Json& line, const RolloutTimes& times, double training, int64_t tokens);

/// "reward 0.312, cut 12 %, no spread 40 %, unparsed 3 %, gap 0; sampled 2.1 s, ..." out of an on-policy step's line; empty for others.
std::string rollout_words(const Json& line);

}  // namespace hone::train
