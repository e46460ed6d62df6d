#pragma once
// The ops as plain ATen compositions: their definition, the oracle of their tests (also in float64), and how a GPU runs.
#include "hone/ops/ops.h"

namespace hone::ops::reference {
at::Tensor embedding(Parameter& table, const at::Tensor& ids);
at::Tensor linear(const at::Tensor& x, Parameter& weight, Parameter* bias, const AdapterSet* adapters = nullptr, const LinearInput& input = {});
at::Tensor rms_norm(const at::Tensor& x, Parameter& weight, double eps);
at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor tree_attention(const at::Tensor& qkv, const AttentionConfig& config, const BatchTensors& batch);
at::Tensor cached_attention(const at::Tensor& qkv, const AttentionConfig& config, const std::vector<int64_t>& positions,
                            const std::vector<KvLayer*>& caches);
TokenLogprobs token_logprobs(const at::Tensor& hidden, Parameter& head, const BatchTensors& batch, const LogprobOptions& options);
at::Tensor head_logits(const at::Tensor& hidden, Parameter& head);
}  // namespace hone::ops::reference
