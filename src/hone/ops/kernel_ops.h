#pragma once
// The ops on hone's exact CPU kernels; see ops.h for their meaning.
#include "hone/ops/ops.h"

namespace hone::ops::fast {
at::Tensor embedding(Parameter& table, const at::Tensor& ids, const at::Tensor& anchor);
at::Tensor linear(const at::Tensor& x, Parameter& weight, Parameter* bias, const AdapterSet* adapters = nullptr, const LinearInput& input = {});
at::Tensor rms_norm(const at::Tensor& x, Parameter& weight, double eps);
at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor tree_attention(const at::Tensor& qkv, const AttentionConfig& config, const BatchTensors& batch);
at::Tensor cached_attention(const at::Tensor& qkv, const AttentionConfig& config, const std::vector<int64_t>& positions,
                            const std::vector<KvLayer*>& caches);
at::Tensor residual_add(const at::Tensor& a, const at::Tensor& b);
TokenLogprobs token_logprobs(const at::Tensor& hidden, Parameter& head, const BatchTensors& batch, const LogprobOptions& options);
at::Tensor head_logits(const at::Tensor& hidden, Parameter& head);
}  // namespace hone::ops::fast
