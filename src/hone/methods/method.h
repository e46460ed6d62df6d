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
#include "hone/methods/reference.h"
#include "hone/ops/ops.h"

namespace hone::methods {

/// How the values of a step become its figure. Losses are sums; a metric may be an extreme (NaN where any value is).
enum class Reduce { sum, minimum, maximum };

/// One summand of the loss, or one metric: values (S) float64, one per sequence. What is reported, and trained on, is
/// sum(values) / count (of a metric with another Reduce: that extreme), with the count taken over all rows of the step before any backward: neither
/// gradients nor figures can depend on how the step is split into micro-batches.
struct Term {
  std::string name;
  at::Tensor values;  // (S) float64
  double count = 0;   // of the whole step
  Reduce reduce = Reduce::sum;
};

/// What couples the rows of a step. Losses of scope `step` see all log-probabilities at once, without gradient, before the backward.
enum class Scope { token, sequence, group, step };

struct MethodOutput {
  std::vector<Term> losses;   // the loss is the sum of sum(values)/count
  std::vector<Term> metrics;  // no gradient
};

/// What a method reads of the forward of its sequences.
enum class Reads { logprobs, scores, values };

/// The forward of consecutive rows of one step. In a first pass: of all of them, with only the index tensors of the predictions.
struct Forward {
  ops::TokenLogprobs logprobs;       // of every prediction; undefined unless Reads::logprobs
  at::Tensor scores;                 // (S) float32, differentiable: the reward head at score_at; undefined unless Reads::scores
  at::Tensor values;                 // (N + S) float32, differentiable: the head at every state (model::state_values); undefined unless Reads::values
  at::Tensor sequence_ids, weights;  // (N) of the predictions
  int64_t num_sequences = 0;         // S
  std::span<const int64_t> rows;     // of the method, in the order of the batch
  int64_t first = 0;                 // rows[0] is number `first` of the step
};

/// What the rows of one step have in common, the same for each of its micro-batches.
struct StepInputs {
  std::vector<double> counts;            // Method::counts of all rows of the step
  at::Tensor shared;                     // what Method::first_pass made; undefined where the scope is not `step`
  std::vector<double> pass_counts = {};  // Method::counts of the rows that are run, where some of the step's are left out; else empty
};

/// A method over a data set that it was given: rows are named by index. One row may be several sequences (a pair is two).
class Method {
 public:
  virtual ~Method() = default;
  virtual Scope scope() const = 0;
  virtual Reads reads() const { return Reads::logprobs; }
  /// Whether evaluate reads log_sum_p2 and mean_logit.
  virtual bool statistics() const { return false; }
  /// The temperature of the law whose log-probabilities evaluate reads: softmax(logits / temperature), untruncated.
  virtual double temperature() const { return 1.0; }
  virtual int64_t num_rows() const = 0;
  /// Packed tokens that a row takes.
  virtual int64_t row_tokens(int64_t row) const = 0;
  /// Real input tokens of a row, a prompt counted once per sequence (metric num_tokens).
  virtual int64_t input_tokens(int64_t row) const = 0;
  /// Appends the row to the batch.
  virtual void append(batch::PackedBatch& batch, int64_t row) const = 0;
  /// The normalisers of these rows; [0] is that of the first loss term.
  virtual std::vector<double> counts(std::span<const int64_t> rows) const = 0;
  /// dL/dlogprob (N) of a batch of these rows where it is known before the forward; else empty.
  virtual std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const {
    (void)batch, (void)rows, (void)step;
    return std::nullopt;
  }
  virtual MethodOutput evaluate(const Forward& forward, const StepInputs& step) const = 0;
  /// False: the row's backward would add exactly nothing, so a step may leave it out (it stays in the counts).
  virtual bool has_gradient(int64_t row) const {
    (void)row;
    return true;
  }

  /// Where the reference's log-probabilities go, of a method that is measured against one; else null. They are there before evaluate.
  virtual ReferenceLogprobs* reference() { return nullptr; }
  /// What the reference scores of a row.
  virtual void append_reference(batch::PackedBatch& batch, int64_t row) const { append(batch, row); }
  virtual int64_t reference_tokens(int64_t row) const { return row_tokens(row); }

  /// The metric that says by how many nats a token what should be preferred has become less likely than under the reference; null: none.
  virtual const char* fall_metric() const { return nullptr; }

  /// Scope `step` only. What the first pass, without gradient, scores of a row (the row itself, or what its loss is measured against).
  virtual void append_first(batch::PackedBatch& batch, int64_t row) const { append(batch, row); }
  virtual int64_t first_tokens(int64_t row) const { return row_tokens(row); }
  /// From the first pass over all rows of the step to what every row's loss must know of the others: a constant to the backward.
  virtual at::Tensor first_pass(const Forward& all) const {
    (void)all;
    return {};
  }
};

}  // namespace hone::methods
