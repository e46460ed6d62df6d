#pragma once
// Reward modelling: a model that gives a completion one number, learned from pairs.
//
// Task: score completions so that the preferred one of a pair has the higher score. Source: Bradley and Terry 1952 as loss of a model,
// Ouyang et al. 2022 (arXiv:2203.02155, eq. 1); margin: Touvron et al. 2023 (arXiv:2307.09288, eq. 2); centring: Eisenstein et al. 2023
// (arXiv:2312.09244, eq. 2); label smoothing as in conservative DPO (arXiv:2305.18290).
//
//   L = (1 / B) sum_pairs [ (1 - e) f(z) + e f(-z) + c (r_c + r_r)^2 ]      f(z) = -log sigmoid(z) = log(1 + exp(-z))
//
//   z = r_c - r_r - m
//   r_c, r_r = scores of chosen and rejected     the reward head at the sequence's end-of-turn token
//   m = row.margin                               how much better chosen is said to be; 0 where the row does not say
//   e = options.label_smoothing                  share of the pairs that are taken to be labelled the wrong way round
//   c = options.center_rewards_coefficient       scores have no zero of their own: this puts it in the middle
//   B = counts[0]                                pairs of the optimizer step (not of a micro-batch)
//
// Metrics of TRL's RewardTrainer: accuracy (share of pairs with r_c > r_r; a tie is none), margin (mean r_c - r_r, without m), min_reward,
// mean_reward, max_reward over both sides. Departures from TRL 1.16: label smoothing, which RewardTrainer does not have; the extremes are those
// of the optimizer step, where TRL averages those of micro-batches.
#include "hone/config/run_config.h"
#include "hone/methods/pairs.h"

namespace hone::methods {

/// The loss of one pair and its derivatives.
struct PairLoss {
  double loss = 0, by_chosen = 0, by_rejected = 0;
};
PairLoss bradley_terry(double chosen, double rejected, double margin, double label_smoothing, double center_rewards_coefficient);

class RewardModel : public PairMethod {
 public:
  RewardModel(std::vector<data::PairRow> rows, const config::PreferenceOptions& options, int64_t max_tree_tokens);
  Reads reads() const override { return Reads::scores; }
  /// The sequences without predictions: nothing of the vocabulary is computed.
  void append(batch::PackedBatch& batch, int64_t row) const override;
  std::vector<double> counts(std::span<const int64_t> rows) const override { return {static_cast<double>(rows.size())}; }
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;

 private:
  double label_smoothing_, center_;
  std::vector<float> no_weights_;  // as many zeros as the longest sequence has tokens
};

}  // namespace hone::methods
