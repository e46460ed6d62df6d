#pragma once
// The gates of hone rlhf: what a stage's result must be worth before the next one starts.
#include "hone/config/parse.h"
#include "hone/train/metrics.h"

namespace hone::app {

struct GateVerdict {
  bool passed = true;
  std::string words;  // "eval_loss 1.2345 (95 %: 1.2000 to 1.3000); the value may be at most max_eval_loss 2"
  std::string advice;
  train::Json json;  // of summary.json; null: no threshold
};

/// Whether a stage with this summary.json lets the next one start. The held-out loss and the KL (the median of the last
/// ten steps before the kept model) count as they are; of the reward model's accuracy
/// the lower end of its 95 % interval counts: it must be sure that the reward model is that good. A figure that is not there does not pass.
GateVerdict judge(const config::Gates& gates, config::Command stage, const train::Json& summary);

}  // namespace hone::app
