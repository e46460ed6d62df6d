#pragma once
// Both sides of pairs without gradient: what a reward model scores them, and what a policy gives them. The prompt of a pair is computed once;
// the results do not depend on that, nor on the micro-batches.
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "hone/data/pair_row.h"
#include "hone/model/decoder.h"
#include "hone/train/reward_report.h"

namespace hone::train {

struct PairPass {
  int64_t micro_batch_tokens = 1024;
  int64_t max_tree_tokens = 4096;
  ops::AdapterSet* adapters = nullptr;
};

/// Scores of the reward head (of the adapters where they have one, else of the model), with the lengths of the completions.
std::vector<ScoredPair> score_pairs(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass);

/// The report on held-out pairs, as a training run leaves it in reward_report.json and `hone eval --reward` prints it. UserError where a score
/// is not finite.
RewardReport held_out_report(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass);

/// The log-probability of each completion under a policy, summed over its tokens of weight, and how many those are.
struct PairLogprobs {
  std::array<double, 2> sum{};  // chosen, rejected
  std::array<int64_t, 2> tokens{};
};
std::vector<PairLogprobs> pair_logprobs(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass);

}  // namespace hone::train
