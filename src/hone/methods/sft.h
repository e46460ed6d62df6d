#pragma once
// Supervised fine-tuning (SFT).
//
// Task: imitate demonstrations. Source: the usual language-model objective restricted to the trained spans.
//
//   L = - (1 / W) sum_n w_n log p(y_n | y_<n)
//
//   log p(y_n | y_<n) = logprobs[n]   temperature 1, natural logarithm
//   w_n = batch.weights[n]            1 on trained tokens, 0 elsewhere
//   W = counts[0]                         the sum of w over all rows of the optimizer step (not of a micro-batch)
//
// Metrics: mean_token_accuracy (share of trained tokens that are the most likely token) and entropy (mean entropy of the prediction at
// trained tokens, nats), both over the same tokens as the loss and normalised by their number.
// Departures from TRL 1.16: the newline that templates put behind the end-of-turn token is not trained (docs/sft.md).
#include <vector>

#include "hone/data/token_cache.h"
#include "hone/methods/method.h"

namespace hone::methods {

class Sft : public Method {
 public:
  explicit Sft(std::vector<data::TokenRow> rows) : rows_(std::move(rows)) {}
  Scope scope() const override { return Scope::token; }
  int64_t num_rows() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t row_tokens(int64_t row) const override { return static_cast<int64_t>(rows_[row].ids.size()); }
  int64_t input_tokens(int64_t row) const override { return row_tokens(row); }
  void append(batch::PackedBatch& batch, int64_t row) const override;
  std::vector<double> counts(std::span<const int64_t> rows) const override;
  std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const override;
  MethodOutput evaluate(const Forward& forward, const StepInputs& step) const override;
  const data::TokenRow& row(int64_t index) const { return rows_[index]; }

 private:
  std::vector<data::TokenRow> rows_;
};

}  // namespace hone::methods
