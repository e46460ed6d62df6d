#pragma once
// Held-out figures with their intervals.
#include <string>
#include <vector>

#include "hone/methods/method.h"
#include "hone/model/decoder.h"
#include "hone/train/metrics.h"

namespace hone::train {

/// Held-out figures without gradient: eval_loss, eval_* metrics of the method, eval_num_tokens; each mean over rows with _low and _high, its
/// 95 % interval.
Json evaluation(model::Model& model, ops::AdapterSet* adapters, const methods::Method& method, int64_t micro_batch_tokens);

/// An evaluation by sampling.
struct HeldOut {
  Json figures;                // eval_* keys
  std::vector<double> scores;  // of each prompt; NaN: none
};

/// For the log: "eval_loss 1.2345, eval_mean_token_accuracy 0.6789".
std::string headline(const Json& evaluation);

}  // namespace hone::train
