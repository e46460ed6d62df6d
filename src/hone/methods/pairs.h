#pragma once
// What every method over pairs has in common: how a pair is packed, and what is reported of its completions.
//
// A pair is two sequences, chosen then rejected, whose common beginning is packed (and computed) once: sequences 2i and 2i + 1 of a batch
// are those of its i-th pair. Everything reported is a sum over the pairs of the step divided by a count that is known before the forward.
//
//   logits/chosen, logits/rejected    mean over that side's completion tokens of the mean logit that predicts them
//   entropy                           mean over all completion tokens of the prediction's entropy, nats
//   mean_token_accuracy               share of the chosen completions' tokens that are the most likely token
#include <functional>
#include <utility>
#include <vector>

#include "hone/data/pair_row.h"
#include "hone/methods/method.h"

namespace hone::methods {

/// Two values a pair: (P) float64 each.
struct Sides {
  at::Tensor chosen, rejected;
};

/// Predictions of a row that are trained: its tokens of weight, but not the first, which is predicted from nothing.
int64_t trained_tokens(const data::TokenRow& row);

/// The counts of pairs. StepInputs::counts holds them behind the normaliser of the first loss term.
struct PairCounts {
  double pairs = 0, chosen_tokens = 0, rejected_tokens = 0;
};

class PairMethod : public Method {
 public:
  /// A pair whose tree would take more than max_tree_tokens is packed as two sequences.
  PairMethod(std::vector<data::PairRow> rows, int64_t max_tree_tokens) : rows_(std::move(rows)), max_tree_tokens_(max_tree_tokens) {}

  Scope scope() const override { return Scope::sequence; }
  /// Entropy is always made, and with it log_sum_p2 and mean_logit cost nothing (kernels/cpu/logprobs.cpp).
  bool statistics() const override { return true; }
  int64_t num_rows() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t row_tokens(int64_t row) const override;
  int64_t input_tokens(int64_t row) const override;
  void append(batch::PackedBatch& batch, int64_t row) const override;
  /// {pairs, pairs, chosen tokens, rejected tokens}: the loss is a mean over pairs.
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  const data::PairRow& row(int64_t index) const { return rows_[index]; }

 protected:
  PairCounts pair_counts(std::span<const int64_t> rows) const;
  static PairCounts pair_counts(const StepInputs& step) { return {step.counts[1], step.counts[2], step.counts[3]}; }
  int64_t max_tree_tokens() const { return max_tree_tokens_; }

 private:
  std::vector<data::PairRow> rows_;
  int64_t max_tree_tokens_;
};

/// values (N) summed over each sequence, by side.
Sides side_sums(const Forward& forward, const at::Tensor& values);

/// The metrics named above; mask (N) is 1 on predictions of the completions, 0 elsewhere.
void report_completions(std::vector<Term>& metrics, const Forward& forward, const at::Tensor& mask, const PairCounts& counts);

/// rewards/chosen, rewards/rejected, rewards/accuracies (share of pairs with the larger reward for chosen), rewards/margins: means over pairs.
void report_rewards(std::vector<Term>& metrics, const Sides& rewards, double pairs);

/// logps/chosen, logps/rejected: means over pairs of what the method takes for a completion's log-probability.
void report_logps(std::vector<Term>& metrics, const Sides& logps, double pairs);

/// The k3 estimator of KL(policy || reference) by token, exp(d) - 1 - d of d = log ref - log pi (N): float64 on the CPU, without gradient
/// (http://joschu.net/blog/kl-approx.html).
at::Tensor k3(const at::Tensor& policy, const at::Tensor& reference);

/// (P), each element made by `loss` from the pair's number, from tensors of that pair alone: its bits cannot depend on the pairs beside it
/// (the vectorised functions of ATen round a last, partial vector otherwise). Differentiable.
at::Tensor each_pair(int64_t pairs, const std::function<at::Tensor(int64_t)>& loss);

}  // namespace hone::methods
