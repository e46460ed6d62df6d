#pragma once
// What a method is to the loop: rows become sequences of a packed batch, per-token log-probabilities become terms.
// A method knows nothing of devices, files, micro-batches or logging.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hone/batch/packed_batch.h"
#include "hone/ops/ops.h"

namespace hone::methods {

/// One summand of the loss, or one metric: values (S) float64, one per sequence. What is reported, and trained on, is
/// sum(values) / count, with the count taken over all rows of the step before any backward: neither gradients nor figures can depend on
/// how the step is split into micro-batches.
struct Term {
  std::string name;
  at::Tensor values;  // (S) float64
  double count = 0;   // of the whole step
};

/// What couples the rows of a step. Losses of scope `step` see all log-probabilities at once, without gradient, before the backward.
enum class Scope { token, sequence, group, step };

struct MethodOutput {
  std::vector<Term> losses;   // the loss is the sum of sum(values)/count
  std::vector<Term> metrics;  // no gradient
};

/// A method over a data set that it was given: rows are named by index.
class Method {
 public:
  virtual ~Method() = default;
  virtual Scope scope() const = 0;
  virtual int64_t num_rows() const = 0;
  /// Packed tokens that a row takes.
  virtual int64_t row_tokens(int64_t row) const = 0;
  /// Real input tokens of a row, a prompt counted once per sequence (metric num_tokens).
  virtual int64_t input_tokens(int64_t row) const = 0;
  /// Appends the row to the batch.
  virtual void append(batch::PackedBatch& batch, int64_t row) const = 0;
  /// The normaliser of the rows of one step.
  virtual double count(std::span<const int64_t> rows) const = 0;
  /// dL/dlogprob (N) where it is known before the forward; else empty.
  virtual std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, double count) const = 0;
  virtual MethodOutput evaluate(const ops::TokenLogprobs& logprobs, const ops::BatchTensors& batch, double count) const = 0;
};

}  // namespace hone::methods
