#pragma once
// The differentiable operations of the decoder. Each has two forms with one meaning: hone's exact CPU kernels (kernel_ops.cpp) and plain
// ATen (reference.cpp); dispatch.cpp is the only place that chooses. Shape letters: T tokens, N predictions, D hidden, F feed-forward,
// H query heads, G key/value heads, d head size, V vocabulary, S sequences.
//
// Gradients of parameters are accumulated straight into Parameter::grad: on the kernel backend by chains over tokens in data order that
// go on from the stored value, so that the split into micro-batches cannot change a bit.
#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <vector>

#include "hone/batch/packed_batch.h"
#include "hone/ops/adapter_set.h"
#include "hone/ops/parameter.h"

namespace hone::ops {

/// Shape of attention and the rotary tables: cos, sin (positions, d/2) float32.
struct AttentionConfig {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  at::Tensor cos, sin;
  int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};

/// Index tensors of one packed batch, on the model's device, made once and used by every layer.
struct BatchTensors {
  at::Tensor token_ids, positions;                 // (T) int64
  at::Tensor predict_from, targets, sequence_ids;  // (N) int64
  at::Tensor weights;                              // (N) float32
  at::Tensor score_at;                             // (S) int64
  std::vector<batch::Segment> segments;
  int64_t num_sequences = 0;
};
BatchTensors make_batch_tensors(const batch::PackedBatch& batch, const at::Device& device);

/// Keys and values of one sequence in one layer, for decoding (kernel backend: the layout of kernels::KvView; reference: (length, G, d)).
struct KvLayer {
  at::Tensor keys, values;
};

/// (T, D) rows of the table. `anchor` is a scalar that requires grad while training, so that the graph reaches the embedding.
/// The lookup gradient is kept as rows until flush_lookups: a tied table also gets the head's chain, and only then the rows in data order.
at::Tensor embedding(Parameter& table, const at::Tensor& ids, const at::Tensor& anchor);

/// Adds the lookup gradients that backward passes have left, in the order of the micro-batches, and forgets them.
void flush_lookups(Parameter& table);

/// What makes a linear's input out of x. It is cheap, so the backward makes it again instead of keeping it (the same bits).
struct LinearInput {
  Parameter* norm = nullptr;  // rms_norm(x, norm, eps)
  double eps = 0;
  bool swiglu = false;  // x is gate_up (T, 2K)
};
/// x (T, K) -> (T, N), the one matrix product of the model: dense or 4-bit weight, and the side path that `adapters` (may be null) have for
/// it. bias may be null.
at::Tensor linear(const at::Tensor& x, Parameter& weight, Parameter* bias, const AdapterSet* adapters, const LinearInput& input = {});

/// Root mean square norm over D: x * rsqrt(mean(x^2) + eps) * weight (arXiv:1910.07467).
at::Tensor rms_norm(const at::Tensor& x, Parameter& weight, double eps);

/// gate_up (T, 2F) -> silu(gate) * up (T, F) (arXiv:2002.05202).
at::Tensor swiglu(const at::Tensor& gate_up, Backend backend);

/// Rotary embedding of q and k, then attention over the segment tree. qkv (T, (H + 2G) d) is consumed (rotated in place on the kernel
/// backend) and must not be used by anything else. Returns (T, H d).
at::Tensor tree_attention(const at::Tensor& qkv, const AttentionConfig& config, const BatchTensors& batch, Backend backend);

/// One decoding step: row r of qkv is the token at positions[r] of the sequence whose cache is caches[r]; its key and value are written
/// there and it attends to keys 0..positions[r]. Rows of the same sequence stand in ascending position. No gradient.
at::Tensor cached_attention(const at::Tensor& qkv, const AttentionConfig& config, const std::vector<int64_t>& positions,
                            const std::vector<KvLayer*>& caches, Backend backend);
KvLayer make_kv_layer(const AttentionConfig& config, int64_t capacity, Backend backend, const at::Device& device);

/// a + b (the residual stream).
at::Tensor residual_add(const at::Tensor& a, const at::Tensor& b, Backend backend);

struct LogprobOptions {
  double temperature = 1.0;
  bool statistics = false;  // also log_sum_p2 and mean_logit
  /// dL/dlogprob (N) when it is known before the forward (SFT): dlogits are then made in the forward and the backward costs nothing;
  /// the cotangent that arrives in the backward must have the same bits.
  std::optional<at::Tensor> known_cotangent;
};

struct TokenLogprobs {
  at::Tensor logprobs;    // (N) differentiable: log p(target) under softmax(logits / temperature)
  at::Tensor entropy;     // (N) differentiable: - sum p log p, nats (not with known_cotangent)
  at::Tensor log_sum_p2;  // (N)
  at::Tensor mean_logit;  // (N)
  at::Tensor hits;        // (N) bool: the target is the most likely token (lowest id on ties)
};

/// Fused, chunked linear + logsumexp + gather over hidden (T, D) and head (V, D): no (N, V) tensor is held, only kLogprobChunk rows.
TokenLogprobs token_logprobs(const at::Tensor& hidden, Parameter& head, const BatchTensors& batch, const LogprobOptions& options);
constexpr int64_t kLogprobChunk = 256;

/// Logits (R, V) of hidden (R, D): for sampling only, R is the number of sequences being decoded.
at::Tensor head_logits(const at::Tensor& hidden, Parameter& head);

/// values (N) float32 summed per sequence in data order in float64: (S) float64, differentiable.
at::Tensor sequence_sum(const at::Tensor& values, const at::Tensor& sequence_ids, int64_t num_sequences);

/// Runs `layer` without keeping its activations and again in the backward (gradient checkpointing, arXiv:1604.06174). The recomputation
/// has the same bits, so the gradients do too. Where x requires no gradient but the layer trains something of its own (the lowest side path of
/// an adapter), `anchor` is a scalar that requires one; without either the layer is just run.
at::Tensor checkpointed(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& layer, const at::Tensor& anchor = {});

}  // namespace hone::ops
