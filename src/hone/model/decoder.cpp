#include "hone/model/decoder.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "hone/base/error.h"

namespace hone::model {
namespace {

using at::Tensor;

ops::Parameter* bias_of(ops::Parameter& bias) { return bias.defined() ? &bias : nullptr; }

ops::Parameter& score_head(Model& model, const ops::AdapterSet* adapters) {
  ops::Parameter& head = adapters && adapters->score ? *adapters->score : model.score;
  check(head.defined(), "neither the model nor the adapter has a reward head");
  return head;
}

// x + f(norm(x)) for the two halves of a block; `attend` is tree attention in training and cached attention in decoding.
template <class Attend>
Tensor block_forward(Model& m, Block& b, const ops::AdapterSet* adapters, const Tensor& x, const Attend& attend) {
  const double eps = m.config.rms_norm_eps;
  Tensor qkv = ops::linear(x, b.qkv, bias_of(b.qkv_bias), adapters, {.norm = &ops::resolve(adapters, b.input_norm), .eps = eps});
  Tensor middle = ops::residual_add(x, ops::linear(attend(qkv), b.o, bias_of(b.o_bias), adapters), m.backend);
  Tensor gate_up = ops::linear(middle, b.gate_up, nullptr, adapters, {.norm = &ops::resolve(adapters, b.post_norm), .eps = eps});
  return ops::residual_add(middle, ops::linear(gate_up, b.down, nullptr, adapters, {.swiglu = true}), m.backend);
}

// Makes the graph of a block begin at its own side paths; undefined where the block has none that are trained.
Tensor anchor_of(const Block& b, const ops::AdapterSet* adapters) {
  if (!adapters) return {};
  for (const ops::Parameter* weight : {&b.qkv, &b.o, &b.gate_up, &b.down})
    if (adapters->path(*weight)) return adapters->anchor;
  return {};
}

}  // namespace

std::vector<ops::Parameter*> Model::parameters() {
  std::vector<ops::Parameter*> all{&embedding};
  for (Block& b : blocks)
    for (ops::Parameter* p : {&b.input_norm, &b.qkv, &b.qkv_bias, &b.o, &b.o_bias, &b.post_norm, &b.gate_up, &b.down})
      if (p->defined()) all.push_back(p);
  all.push_back(&norm);
  if (lm_head.defined()) all.push_back(&lm_head);
  if (score.defined()) all.push_back(&score);
  return all;
}

Tensor decoder(Model& model, const ops::AdapterSet* adapters, const ops::BatchTensors& batch, const ForwardOptions& options) {
  at::AutoGradMode grad(options.training);
  Tensor anchor = at::zeros({}, at::TensorOptions(at::kFloat).device(model.device));
  ops::Parameter& table = model.lookup_table(adapters);
  // A frozen table needs no gradient, but norms and heads that are trained in full may stand below the lowest side path; a reward head never
  // does, unless there is no side path at all.
  const bool trains_norms =
      adapters && adapters->anchor.defined() && (!adapters->replacements.empty() || adapters->head || (adapters->score && adapters->paths.empty()));
  anchor.requires_grad_(options.training && (table.trainable || trains_norms));
  Tensor x = ops::embedding(table, batch.token_ids, anchor);
  for (Block& block : model.blocks) {
    const auto layer = [&model, &block, adapters, &batch](const Tensor& input) {
      return block_forward(model, block, adapters, input,
                           [&](const Tensor& qkv) { return ops::tree_attention(qkv, model.attention, batch, model.backend); });
    };
    x = options.checkpointing ? ops::checkpointed(x, layer, anchor_of(block, adapters)) : layer(x);
  }
  return ops::rms_norm(x, ops::resolve(adapters, model.norm), model.config.rms_norm_eps);
}

Tensor sequence_scores(Model& model, const ops::AdapterSet* adapters, const Tensor& hidden, const ops::BatchTensors& batch) {
  return ops::linear(hidden.index_select(0, batch.score_at), score_head(model, adapters), nullptr, nullptr).squeeze(1);
}

Tensor state_values(Model& model, const ops::AdapterSet* adapters, const Tensor& hidden, const ops::BatchTensors& batch) {
  const Tensor from = batch.predict_from.cpu(), ids = batch.sequence_ids.cpu(), ends = batch.score_at.cpu();
  std::vector<int64_t> states;
  for (int64_t s = 0, n = 0; s < batch.num_sequences; ++s) {
    for (; n < ids.numel() && ids.const_data_ptr<int64_t>()[n] == s; ++n) states.push_back(from.const_data_ptr<int64_t>()[n]);
    states.push_back(ends.const_data_ptr<int64_t>()[s]);
  }
  check(static_cast<int64_t>(states.size()) == from.numel() + ends.numel(), "state_values: predictions are not in the order of their sequences");
  const Tensor at = at::tensor(states, at::kLong).to(hidden.device());
  return ops::linear(hidden.index_select(0, at), score_head(model, adapters), nullptr, nullptr).squeeze(1);
}

KvCache make_kv_cache(const Model& model, int64_t capacity) {
  KvCache cache{0, capacity, {}};
  for (size_t i = 0; i < model.blocks.size(); ++i) cache.layers.push_back(ops::make_kv_layer(model.attention, capacity, model.backend, model.device));
  return cache;
}

KvCache copy_kv_cache(const Model& model, const KvCache& cache, int64_t capacity) {
  check(capacity >= cache.length, "copy_kv_cache: capacity {} for {} tokens", capacity, cache.length);
  KvCache copy = make_kv_cache(model, capacity);
  copy.length = cache.length;
  // Keys come in panels of 16 on the kernel backend: (G, panels, d, 16); whole panels are copied.
  const bool panels = model.backend == ops::Backend::kernels;
  const int64_t keys = panels ? (cache.length + 15) / 16 : cache.length, axis = panels ? 1 : 0;
  for (size_t i = 0; i < copy.layers.size(); ++i) {
    copy.layers[i].keys.slice(axis, 0, keys).copy_(cache.layers[i].keys.slice(axis, 0, keys));
    copy.layers[i].values.slice(axis, 0, cache.length).copy_(cache.layers[i].values.slice(axis, 0, cache.length));
  }
  return copy;
}

Tensor decoder_step(Model& model, const ops::AdapterSet* adapters, const std::vector<int64_t>& ids, const std::vector<KvCache*>& caches) {
  at::NoGradGuard no_grad;
  check(ids.size() == caches.size() && !ids.empty(), "decoder_step: {} ids, {} caches", ids.size(), caches.size());
  std::vector<int64_t> positions;
  for (KvCache* cache : caches) positions.push_back(cache->length++);
  Tensor x = ops::embedding(model.lookup_table(adapters), at::tensor(ids, at::kLong).to(model.device), at::zeros({}));
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    std::vector<ops::KvLayer*> layers;
    for (KvCache* cache : caches) layers.push_back(&cache->layers[i]);
    x = block_forward(model, model.blocks[i], adapters, x,
                      [&](const Tensor& qkv) { return ops::cached_attention(qkv, model.attention, positions, layers, model.backend); });
  }
  return ops::rms_norm(x, ops::resolve(adapters, model.norm), model.config.rms_norm_eps);
}

int64_t activation_bytes_per_token(const ModelConfig& c, bool checkpointing, int64_t adapter_rank) {
  const int64_t D = c.hidden_size, F = c.intermediate_size, width = (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim;
  const int64_t attention = c.num_attention_heads * c.head_dim;
  // block input, qkv, attention out, row max and sum, middle, gate and up, the norms' rstd, what side paths keep
  const int64_t block = D + width + attention + 2 * c.num_attention_heads + D + 2 * F + 2 + adapter_rank;
  // A block in work also holds, for a moment, its norm's output, the product of gate and up, and the gradients of the widest of them.
  const int64_t transient = 2 * D + width + 4 * F;
  const int64_t kept = checkpointing ? c.num_hidden_layers * D + block : c.num_hidden_layers * block;
  return 4 * (kept + transient + 4 * D);
}

}  // namespace hone::model
