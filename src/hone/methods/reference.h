#pragma once
// The reference's log-probabilities of what a method trains on: constants of the run, computed once (train/reference_logprobs.h).
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace hone::methods {

/// By row: one log-probability for each prediction that Method::append_reference makes of the row, in that order.
class ReferenceLogprobs {
 public:
  explicit ReferenceLogprobs(int64_t rows) : rows_(static_cast<size_t>(rows)) {}
  bool has(int64_t row) const { return !rows_[row].empty(); }
  void set(int64_t row, std::vector<float> logprobs) { rows_[row] = std::move(logprobs); }
  std::span<const float> of(int64_t row) const { return rows_[row]; }

 private:
  std::vector<std::vector<float>> rows_;
};

}  // namespace hone::methods
