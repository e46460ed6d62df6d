#pragma once
// Forward (and backward) of the rows of one step, micro-batch by micro-batch. Nothing here depends on where the cuts fall.
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "hone/methods/method.h"
#include "hone/model/decoder.h"

namespace hone::train {

/// Sums over the rows of a step in data order, float64.
struct StepSums {
  double loss = 0;                                      // already divided by its counts
  std::vector<std::pair<std::string, double>> metrics;  // name, sum/count or the extreme
  std::vector<double> row_loss;                         // per sequence, not divided: the first loss term
  std::vector<std::vector<double>> row_metrics;         // per metric and sequence, not divided; empty for an extreme
  int64_t loss_terms = 0;
  std::vector<double> row_loss_counts;                 // with PassOptions::row_counts: what the row's value is divided by where it stands alone
  std::vector<std::vector<double>> row_metric_counts;  // the same of each metric
  int64_t tokens = 0;                                  // real input tokens
  int64_t largest_micro_batch = 0;                     // packed tokens; a checkpointed one above the budget counts as the budget
};

struct PassOptions {
  int64_t micro_batch_tokens = 1024;
  bool training = false;
  bool checkpointing = false;
  int64_t checkpoint_above = std::numeric_limits<int64_t>::max();  // micro-batches of more tokens are checkpointed anyway
  ops::AdapterSet* adapters = nullptr;                             // null: the base model alone
  bool row_counts = false;                                         // also the count that each row's values have of their own
  std::span<const int64_t> step_rows = {};  // all rows of the step where some, whose backward would add nothing, are not run; empty: those run
};

/// Runs the rows. Training: gradients are accumulated into the parameters (lookup gradients are flushed at the end).
/// With dropout in the adapters the tokens get their keys here: (row of the method, place in it).
StepSums run_rows(model::Model& model, const methods::Method& method, std::span<const int64_t> rows, const PassOptions& options);

}  // namespace hone::train
