#include "hone/train/micro_batch.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"

namespace hone::train {
namespace {

struct Running {
  std::string name;
  double sum = 0, count = 0;  // sum: of an extreme, the extreme so far
  methods::Reduce reduce = methods::Reduce::sum;
  std::vector<double> values;  // per sequence
  std::vector<double> counts;  // of each row alone
};

void add_value(Running& r, double value) {
  const bool first = r.values.empty();
  r.values.push_back(value);
  if (r.reduce == methods::Reduce::sum)
    r.sum += value;
  else if (first || std::isnan(value) || (r.reduce == methods::Reduce::minimum ? value < r.sum : value > r.sum))
    r.sum = value;  // a NaN stays: nothing compares with it
}

// Adds the per-sequence values of a micro-batch one by one, in data order.
void accumulate(std::vector<Running>& running, const std::vector<methods::Term>& terms) {
  if (running.empty())
    for (const methods::Term& t : terms) running.push_back({t.name, 0.0, t.count, t.reduce, {}, {}});
  check(running.size() == terms.size(), "a method returned {} terms after {}", terms.size(), running.size());
  for (size_t i = 0; i < terms.size(); ++i) {
    const at::Tensor values = terms[i].values.detach().to(at::kCPU, at::kDouble).contiguous();
    for (int64_t s = 0; s < values.size(0); ++s) add_value(running[i], values.const_data_ptr<double>()[s]);
  }
}

// The counts that the rows' values have where a row is a step of its own. They follow from Method::counts alone: the forward is the same.
void add_row_counts(std::vector<Running>& losses, std::vector<Running>& metrics, const methods::Method& method, const methods::Forward& forward,
                    const methods::StepInputs& step) {
  for (const int64_t row : forward.rows) {
    const methods::MethodOutput alone = method.evaluate(forward, {method.counts(std::span(&row, 1)), step.shared, {}});
    for (size_t i = 0; i < losses.size(); ++i) losses[i].counts.push_back(alone.losses[i].count);
    for (size_t i = 0; i < metrics.size(); ++i) metrics[i].counts.push_back(alone.metrics[i].count);
  }
}

void backward(const std::vector<methods::Term>& losses) {
  std::vector<at::Tensor> roots, cotangents;
  for (const methods::Term& t : losses) {
    if (!t.values.requires_grad()) continue;
    roots.push_back(t.values);
    cotangents.push_back(at::full_like(t.values, 1.0 / t.count));
  }
  if (!roots.empty()) torch::autograd::backward(roots, cotangents);
}

// What an element's dropout noise depends on: the row and the token's place in it, wherever the packing puts it.
void add_token_keys(std::vector<uint64_t>& keys, int64_t row, int64_t num_tokens) {
  for (auto place = static_cast<uint64_t>(0); static_cast<int64_t>(keys.size()) < num_tokens; ++place)
    keys.push_back(static_cast<uint64_t>(row) << 32 | place);
}

// The forward of a packed batch, as the method reads it.
methods::Forward forward_of(model::Model& model, const methods::Method& method, const ops::BatchTensors& tensors, const PassOptions& options,
                            const std::optional<at::Tensor>& known_cotangent) {
  const bool checkpointing = options.checkpointing || tensors.token_ids.size(0) > options.checkpoint_above;
  const at::Tensor hidden = model::decoder(model, options.adapters, tensors, {options.training, checkpointing});
  methods::Forward forward;
  forward.sequence_ids = tensors.sequence_ids;
  forward.weights = tensors.weights;
  forward.num_sequences = tensors.num_sequences;
  if (method.reads() == methods::Reads::scores)
    forward.scores = model::sequence_scores(model, options.adapters, hidden, tensors);
  else if (method.reads() == methods::Reads::values)
    forward.values = model::state_values(model, options.adapters, hidden, tensors);
  else
    forward.logprobs =
        ops::token_logprobs(hidden, model.head(options.adapters), tensors, {method.temperature(), method.statistics(), known_cotangent});
  return forward;
}

at::Tensor joined(const std::vector<at::Tensor>& parts) { return parts.empty() || !parts[0].defined() ? at::Tensor() : at::cat(parts); }

// Scores everything that the losses of the step must know beforehand, without gradient, and hands it to the method at once.
at::Tensor first_pass(model::Model& model, const methods::Method& method, std::span<const int64_t> rows, const PassOptions& options) {
  at::AutoGradMode no_grad(false);
  const PassOptions frozen = {.micro_batch_tokens = options.micro_batch_tokens, .adapters = options.adapters};
  std::vector<int64_t> lengths;
  for (int64_t row : rows) lengths.push_back(method.first_tokens(row));
  model::ensure_positions(model, *std::max_element(lengths.begin(), lengths.end()));
  methods::Forward all;
  all.rows = rows;
  std::vector<at::Tensor> logprobs, entropy, log_sum_p2, mean_logit, hits, scores, ids, weights;
  int64_t begin = 0;
  for (int64_t end : batch::plan_micro_batches(lengths, options.micro_batch_tokens)) {
    batch::PackedBatch packed;
    for (; begin < end; ++begin) method.append_first(packed, rows[begin]);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    const methods::Forward part = forward_of(model, method, tensors, frozen, std::nullopt);
    logprobs.push_back(part.logprobs.logprobs);
    entropy.push_back(part.logprobs.entropy);
    log_sum_p2.push_back(part.logprobs.log_sum_p2);
    mean_logit.push_back(part.logprobs.mean_logit);
    hits.push_back(part.logprobs.hits);
    scores.push_back(part.scores);
    ids.push_back(part.sequence_ids + all.num_sequences);
    weights.push_back(part.weights);
    all.num_sequences += part.num_sequences;
  }
  all.logprobs = {joined(logprobs), joined(entropy), joined(log_sum_p2), joined(mean_logit), joined(hits)};
  all.scores = joined(scores);
  all.sequence_ids = joined(ids);
  all.weights = joined(weights);
  return method.first_pass(all);
}

}  // namespace

StepSums run_rows(model::Model& model, const methods::Method& method, std::span<const int64_t> rows, const PassOptions& options) {
  std::vector<int64_t> lengths;
  int64_t longest = 1;
  StepSums sums;
  for (int64_t row : rows) {
    lengths.push_back(method.row_tokens(row));
    longest = std::max(longest, lengths.back());
    sums.tokens += method.input_tokens(row);
  }
  model::ensure_positions(model, longest);
  const std::span<const int64_t> step_rows = options.step_rows.empty() ? rows : options.step_rows;
  methods::StepInputs step{method.counts(step_rows), {}, {}};
  if (!options.step_rows.empty()) step.pass_counts = method.counts(rows);
  if (method.scope() == methods::Scope::step) step.shared = first_pass(model, method, step_rows, options);
  std::vector<Running> losses, metrics;
  int64_t begin = 0;
  for (int64_t end : batch::plan_micro_batches(lengths, options.micro_batch_tokens)) {
    batch::PackedBatch packed;
    std::vector<uint64_t> token_keys;
    for (int64_t i = begin; i < end; ++i) {
      method.append(packed, rows[i]);
      add_token_keys(token_keys, rows[i], packed.num_tokens());
    }
    if (options.adapters) {
      options.adapters->dropout.training = options.training;
      options.adapters->dropout.token_keys = std::move(token_keys);
    }
    sums.largest_micro_batch = std::max(sums.largest_micro_batch, std::min(packed.num_tokens(), options.checkpoint_above));
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    at::AutoGradMode grad(options.training);
    const std::span<const int64_t> own = rows.subspan(begin, end - begin);
    methods::Forward forward =
        forward_of(model, method, tensors, options, options.training ? method.known_cotangent(tensors, own, step) : std::nullopt);
    forward.rows = own;
    forward.first = begin;
    begin = end;
    const methods::MethodOutput out = method.evaluate(forward, step);
    accumulate(losses, out.losses);
    accumulate(metrics, out.metrics);
    if (options.row_counts) add_row_counts(losses, metrics, method, forward, step);
    if (options.training) backward(out.losses);
  }
  if (options.training) ops::flush_lookups(model.lookup_table(options.adapters));
  for (const Running& l : losses) sums.loss += l.sum / l.count;
  sums.loss_terms = static_cast<int64_t>(losses.size());
  if (!losses.empty()) {
    sums.row_loss = std::move(losses[0].values);
    sums.row_loss_counts = std::move(losses[0].counts);
  }
  for (Running& m : metrics) {
    if (!(m.count > 0)) continue;  // nothing of that kind in this step
    const bool sum = m.reduce == methods::Reduce::sum;
    sums.metrics.emplace_back(m.name, sum ? m.sum / m.count : m.sum);
    sums.row_metrics.push_back(sum ? std::move(m.values) : std::vector<double>());
    sums.row_metric_counts.push_back(sum ? std::move(m.counts) : std::vector<double>());
  }
  return sums;
}

}  // namespace hone::train
