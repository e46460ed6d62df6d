#include "hone/methods/sft.h"

#include <ATen/ATen.h>

namespace hone::methods {

void Sft::append(batch::PackedBatch& batch, int64_t row) const {
  const data::TokenRow& r = rows_[row];
  batch::append_document(batch, r.ids.data(), r.weights.data(), static_cast<int64_t>(r.ids.size()));
}

std::vector<double> Sft::counts(std::span<const int64_t> rows) const {
  double total = 0;
  for (int64_t row : rows)
    for (size_t i = 1; i < rows_[row].weights.size(); ++i) total += rows_[row].weights[i];  // the first token is predicted from nothing
  return {total};
}

std::optional<at::Tensor> Sft::known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t>, const StepInputs& step) const {
  // The same roundings as the backward of evaluate below: 1/count to float32, times the weight, negated.
  return batch.weights * static_cast<float>(1.0 / step.counts[0]) * -1.0f;
}

MethodOutput Sft::evaluate(const Forward& forward, const StepInputs& step) const {
  const auto per_sequence = [&](const at::Tensor& values) { return ops::sequence_sum(values, forward.sequence_ids, forward.num_sequences); };
  const at::Tensor trained = (forward.weights != 0).to(at::kFloat);
  MethodOutput out;
  out.losses.push_back({"loss", per_sequence(forward.logprobs.logprobs * forward.weights * -1.0f), step.counts[0]});
  out.metrics.push_back({"mean_token_accuracy", per_sequence(forward.logprobs.hits.to(at::kFloat) * trained), step.counts[0]});
  out.metrics.push_back({"entropy", per_sequence(forward.logprobs.entropy.detach() * trained), step.counts[0]});
  return out;
}

}  // namespace hone::methods
