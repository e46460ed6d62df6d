#include "hone/train/micro_batch.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "hone/base/error.h"

namespace hone::train {
namespace {

struct Running {
  std::string name;
  double sum = 0, count = 0;
  std::vector<double> values;  // per sequence
};

// Adds the per-sequence values of a micro-batch one by one, in data order.
void accumulate(std::vector<Running>& running, const std::vector<methods::Term>& terms) {
  if (running.empty())
    for (const methods::Term& t : terms) running.push_back({t.name, 0.0, t.count, {}});
  check(running.size() == terms.size(), "a method returned {} terms after {}", terms.size(), running.size());
  for (size_t i = 0; i < terms.size(); ++i) {
    const at::Tensor values = terms[i].values.detach().to(at::kCPU, at::kDouble).contiguous();
    for (int64_t s = 0; s < values.size(0); ++s) {
      running[i].sum += values.const_data_ptr<double>()[s];
      running[i].values.push_back(values.const_data_ptr<double>()[s]);
    }
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

}  // namespace

StepSums run_rows(model::Model& model, const methods::Method& method, std::span<const int64_t> rows, const PassOptions& options) {
  check(method.scope() != methods::Scope::step, "losses of scope step need a first pass without gradient");
  std::vector<int64_t> lengths;
  int64_t longest = 1;
  StepSums sums;
  for (int64_t row : rows) {
    lengths.push_back(method.row_tokens(row));
    longest = std::max(longest, lengths.back());
    sums.tokens += method.input_tokens(row);
  }
  model::ensure_positions(model, longest);
  const double count = method.count(rows);
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
    begin = end;
    sums.largest_micro_batch = std::max(sums.largest_micro_batch, packed.num_tokens());
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    at::AutoGradMode grad(options.training);
    const at::Tensor hidden = model::decoder(model, options.adapters, tensors, {options.training, options.checkpointing});
    ops::LogprobOptions logprob_options;
    if (options.training) logprob_options.known_cotangent = method.known_cotangent(tensors, count);
    const ops::TokenLogprobs logprobs = ops::token_logprobs(hidden, model.head(options.adapters), tensors, logprob_options);
    const methods::MethodOutput out = method.evaluate(logprobs, tensors, count);
    accumulate(losses, out.losses);
    accumulate(metrics, out.metrics);
    if (options.training) backward(out.losses);
  }
  if (options.training) ops::flush_lookups(model.lookup_table(options.adapters));
  for (const Running& l : losses) sums.loss += l.sum / l.count;
  if (!losses.empty()) sums.row_loss = std::move(losses[0].values);
  for (Running& m : metrics) {
    sums.metrics.emplace_back(m.name, m.sum / m.count);
    sums.row_metrics.push_back(std::move(m.values));
  }
  return sums;
}

}  // namespace hone::train
