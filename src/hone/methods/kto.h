#pragma once
// Kahneman-Tversky optimisation (KTO, arXiv:2402.01306): completions that are labelled good or bad, one by one.
//
// Task: raise the good completions and lower the bad ones against a frozen reference, in units of how far the policy has moved on the whole.
//
//   L = (1 / R) sum_i v_i
//   kto                 v_i = w_d sigma(-beta (x_i - z)) of a good row, w_u sigma(beta (x_i - z)) of a bad one      eq. 7 and 8
//   apo_zero_unpaired   the same with z = 0                                                                       arXiv:2408.06266 eq. 7
//
//   x_i = sum_t (logprobs[t] - reference[t])      of the row's completion
//   z = max(0, (1 / R) sum_i x'_i)                x' of row i's prompt with another row's completion: the KL divergence, roughly; a constant
//   w_d, w_u = desirable_weight, undesirable_weight
//   R = counts[0]                                 the rows of the optimizer step (not of a micro-batch)
//
// z is of the whole step: a first pass without gradient scores the mismatched sequences of its rows, and nothing else.
//
// Metrics: rewards/chosen, rewards/rejected (mean beta x of good and of bad rows), rewards/margins (their difference), logps/*, logits/*, entropy
// as in pairs.h, kl (z, nats a completion), and ours: kl/chosen, kl/rejected, chosen_drop, chosen_fell as in dpo.h with good rows for chosen.
// Departures from TRL 1.16: the completion that a prompt is mismatched with is that of the row before in the data set (TRL: in blocks of the
// batch size of the unshuffled data), with its place among rows of the same prompt kept, because completions of one's own prompt are no
// mismatch and pairs of a good and a bad completion must not all meet bad ones; so it is a function of the row and its reference is cached.
// Mismatched sequences are cut to the longest row.
#include <vector>

#include "hone/config/run_config.h"
#include "hone/data/pair_row.h"
#include "hone/methods/method.h"

namespace hone::methods {

class Kto : public Method {
 public:
  Kto(std::vector<data::UnpairedRow> rows, const config::PreferenceOptions& options);
  Scope scope() const override { return baseline_ ? Scope::step : Scope::sequence; }
  bool statistics() const override { return true; }
  int64_t num_rows() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t row_tokens(int64_t row) const override { return static_cast<int64_t>(rows_[row].row.ids.size()); }
  int64_t input_tokens(int64_t row) const override { return row_tokens(row); }
  void append(batch::PackedBatch& batch, int64_t row) const override;
  /// {rows, good rows, bad rows, tokens of good completions, of bad completions}.
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;

  ReferenceLogprobs* reference() override { return &reference_; }
  const char* fall_metric() const override { return "chosen_drop"; }
  /// The row, then (kto) its mismatched sequence.
  void append_reference(batch::PackedBatch& batch, int64_t row) const override;
  int64_t reference_tokens(int64_t row) const override { return row_tokens(row) + (baseline_ ? first_tokens(row) : 0); }
  void append_first(batch::PackedBatch& batch, int64_t row) const override;
  int64_t first_tokens(int64_t row) const override;
  /// z (1) float64.
  at::Tensor first_pass(const Forward& all) const override;
  /// Whose completion the row's prompt is mismatched with.
  int64_t partner(int64_t row) const { return partners_[row]; }

 private:
  at::Tensor reference_of(const Forward& forward, bool mismatched) const;

  std::vector<data::UnpairedRow> rows_;
  config::PreferenceOptions options_;
  bool baseline_ = true;  // loss kto
  std::vector<int64_t> partners_;
  int64_t longest_ = 0;
  ReferenceLogprobs reference_;
};

}  // namespace hone::methods
