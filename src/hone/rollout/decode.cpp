#include "hone/rollout/decode.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hone/base/error.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"
#include "hone/ops/float_data.h"

namespace hone::rollout {
namespace {

using ops::data;
using ops::out;

ops::Parameter* bias_of(ops::Parameter& bias) { return bias.defined() ? &bias : nullptr; }

int64_t layer_floats(const model::Model& m) { return kernels::kv_layer_floats(m.attention.kv_heads, m.attention.head_dim); }

}  // namespace

int64_t Decoder::block_bytes(const model::Model& model) { return layer_floats(model) * static_cast<int64_t>(model.blocks.size() * sizeof(float)); }

Decoder::Decoder(model::Model& model, const ops::AdapterSet* adapters, int64_t kv_blocks) : model_(model), adapters_(adapters) {
  check(!adapters || !adapters->dropout.active(), "Decoder: an adapter set with dropout switched on");
  if (model.backend != ops::Backend::kernels) return;
  pool_ = std::make_unique<KvPool>(layer_floats(model) * static_cast<int64_t>(model.blocks.size()), kv_blocks);
  prepare();
}

void Decoder::set_version(uint64_t version) {
  if (version == version_) return;
  version_ = version;
  if (pool_) prepare();  // DoRA's factors follow from the weights
}

void Decoder::prepare() {
  layers_.clear();
  for (model::Block& b : model_.blocks)
    layers_.push_back({data(ops::resolve(adapters_, b.input_norm).value), data(ops::resolve(adapters_, b.post_norm).value),
                       linear_of(b.qkv, bias_of(b.qkv_bias)), linear_of(b.o, bias_of(b.o_bias)), linear_of(b.gate_up, nullptr),
                       linear_of(b.down, nullptr)});
  final_norm_ = data(ops::resolve(adapters_, model_.norm).value);
}

Decoder::Linear Decoder::linear_of(ops::Parameter& weight, ops::Parameter* bias) const {
  Linear linear{&weight, bias, adapters_ ? adapters_->path(weight) : nullptr, {}};
  if (!linear.side || !linear.side->targets.front().magnitude.defined()) return linear;
  linear.factor.assign(weight.rows, 1.0f);
  for (const ops::SideTarget& t : linear.side->targets) {
    const at::Tensor norm = ops::side_weight_norm(weight, *linear.side, t);
    for (int64_t i = 0; i < t.rows; ++i) linear.factor[t.row_begin + i] = data(t.magnitude.value)[i] / data(norm)[i];
  }
  return linear;
}

// The arithmetic of ops::linear, in its order: base, side paths, DoRA's factor, bias.
void Decoder::product(const Linear& l, const float* x, int64_t rows, float* y) {
  const ops::Parameter& w = *l.weight;
  std::vector<kernels::SideProduct> sides;
  const float* bias = l.bias ? data(l.bias->value) : nullptr;
  if (l.side) {
    const ops::Parameter& a = l.side->a;
    float* h = out(side_);
    kernels::linear_forward(x, a.cols, rows, a.cols, data(a.value), a.rows, nullptr, h, a.rows);
    for (const ops::SideTarget& t : l.side->targets) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < t.r; ++j) h[r * a.rows + t.a_begin + j] *= t.scaling;
      sides.push_back({h + t.a_begin, a.rows, t.r, data(t.b.value), t.row_begin, t.rows});
    }
  }
  const kernels::SideProducts view{sides.data(), static_cast<int64_t>(sides.size())};
  const float* early_bias = l.side ? nullptr : bias;
  if (w.is_quantised())
    kernels::linear_forward_quant(x, w.cols, rows, w.cols, ops::quant_panels(w), w.rows, early_bias, y, w.rows, false, view);
  else
    kernels::linear_forward(x, w.cols, rows, w.cols, data(w.value), w.rows, early_bias, y, w.rows, false, view);
  if (!l.factor.empty())
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t n = 0; n < w.rows; ++n) y[r * w.rows + n] *= l.factor[n];
  if (l.side && bias)
    for (int64_t r = 0; r < rows; ++r) kernels::add(y + r * w.rows, bias, w.rows, y + r * w.rows);
}

void Decoder::grow(int64_t rows, int64_t wanted) {
  const auto buffer = [](at::Tensor& t, int64_t n, int64_t width) {
    if (!t.defined() || t.size(0) < n) t = at::empty({n, width}, at::kFloat);
  };
  const model::ModelConfig& c = model_.config;
  int64_t side = 1;
  if (adapters_)
    for (const auto& [weight, path] : adapters_->paths) side = std::max(side, path->a.rows);
  buffer(x_, rows, c.hidden_size);
  buffer(normed_, rows, c.hidden_size);
  buffer(rstd_, rows, 1);
  buffer(qkv_, rows, model_.attention.qkv_width());
  buffer(attended_, rows, model_.attention.heads * model_.attention.head_dim);
  buffer(added_, rows, c.hidden_size);
  buffer(gate_up_, rows, 2 * c.intermediate_size);
  buffer(act_, rows, c.intermediate_size);
  buffer(side_, rows, side);
  buffer(logits_, wanted, c.vocab_size);
}

void Decoder::reserve(Sequence& s) {
  while (static_cast<int64_t>(s.blocks.size()) * kernels::kKvBlock <= s.length) {
    s.blocks.push_back(pool_->take(version_));
    s.pointers.push_back(pool_->data(s.blocks.back()));
  }
}

Sequence Decoder::fork(const Sequence& from, int64_t length) {
  check(length <= from.length, "Decoder::fork: {} of {} tokens", length, from.length);
  Sequence s;
  if (!pool_) {
    if (length < from.length || length == 0) return s;  // a part of a plain cache is not taken over
    s.length = length;
    s.plain = std::make_unique<model::KvCache>(model::copy_kv_cache(model_, *from.plain, from.plain->capacity));
    return s;
  }
  s.length = length;
  const int64_t whole = length / kernels::kKvBlock;
  for (int64_t b = 0; b < whole; ++b) {
    pool_->share(from.blocks[b]);
    s.blocks.push_back(from.blocks[b]);
    s.pointers.push_back(from.pointers[b]);
  }
  if (length % kernels::kKvBlock == 0) return s;
  s.blocks.push_back(pool_->take(pool_->version(from.blocks[whole])));
  s.pointers.push_back(pool_->data(s.blocks.back()));
  std::memcpy(s.pointers.back(), from.pointers[whole], static_cast<size_t>(pool_->block_floats()) * sizeof(float));
  return s;
}

void Decoder::release(Sequence& s) {
  for (const int32_t block : s.blocks) pool_->release(block);
  s = Sequence{};
}

bool Decoder::usable(const Sequence& s) const {
  return s.length > 0 && std::all_of(s.blocks.begin(), s.blocks.end(), [&](int32_t block) { return pool_->version(block) == version_; });
}

void Decoder::layer_step(const Layer& layer, int64_t index, int64_t rows) {
  const ops::AttentionConfig& a = model_.attention;
  const int64_t D = model_.config.hidden_size, width = a.qkv_width(), offset = index * layer_floats(model_);
  const auto eps = static_cast<float>(model_.config.rms_norm_eps);
  float *x = out(x_), *qkv = out(qkv_);
  kernels::rms_norm_forward(x, rows, D, layer.input_norm, eps, out(normed_), out(rstd_));
  product(layer.qkv, data(normed_), rows, qkv);
  kernels::rope_to_cache(rows, a.heads, a.kv_heads, a.head_dim, qkv, width, rows_.data(), offset, data(a.cos), data(a.sin));
  kernels::attention_blocks(rows, a.heads, a.kv_heads, a.head_dim, static_cast<float>(1.0 / std::sqrt(static_cast<double>(a.head_dim))), qkv, width,
                            rows_.data(), offset, out(attended_), a.heads * a.head_dim);
  product(layer.o, data(attended_), rows, out(added_));
  kernels::add(x, data(added_), rows * D, x);
  kernels::rms_norm_forward(x, rows, D, layer.post_norm, eps, out(normed_), out(rstd_));
  product(layer.gate_up, data(normed_), rows, out(gate_up_));
  kernels::swiglu_forward(data(gate_up_), rows, model_.config.intermediate_size, out(act_));
  product(layer.down, data(act_), rows, out(added_));
  kernels::add(x, data(added_), rows * D, x);
}

const float* Decoder::step(std::span<const StepRow> rows, std::span<const int64_t> wanted) {
  const auto count = static_cast<int64_t>(rows.size()), chosen = static_cast<int64_t>(wanted.size());
  check(count > 0, "Decoder::step without rows");
  int64_t longest = 0;
  for (const StepRow& row : rows) longest = std::max(longest, row.sequence->length + count);
  model::ensure_positions(model_, longest);
  if (!pool_) return reference_step(rows, wanted);
  grow(count, chosen);
  std::vector<int64_t> ids(rows.size());
  rows_.resize(rows.size());
  for (size_t r = 0; r < rows.size(); ++r) {
    reserve(*rows[r].sequence);
    ids[r] = rows[r].token;
    rows_[r].position = rows[r].sequence->length++;
  }
  for (size_t r = 0; r < rows.size(); ++r) rows_[r].blocks = rows[r].sequence->pointers.data();
  const int64_t D = model_.config.hidden_size;
  kernels::embedding_forward(data(model_.lookup_table(adapters_).value), D, ids.data(), count, out(x_));
  for (size_t i = 0; i < layers_.size(); ++i) layer_step(layers_[i], static_cast<int64_t>(i), count);
  float* x = out(x_);
  for (int64_t i = 0; i < chosen; ++i)
    if (wanted[i] != i) std::copy_n(x + wanted[i] * D, D, x + i * D);
  if (chosen == 0) return nullptr;
  const ops::Parameter& head = model_.head(adapters_);
  kernels::rms_norm_forward(x, chosen, D, final_norm_, static_cast<float>(model_.config.rms_norm_eps), out(normed_), out(rstd_));
  kernels::linear_forward(data(normed_), D, chosen, D, data(head.value), head.rows, nullptr, out(logits_), head.rows);
  return data(logits_);
}

const float* Decoder::reference_step(std::span<const StepRow> rows, std::span<const int64_t> wanted) {
  std::vector<int64_t> ids;
  std::vector<model::KvCache*> caches;
  for (const StepRow& row : rows) {
    Sequence& s = *row.sequence;
    if (!s.plain) s.plain = std::make_unique<model::KvCache>(model::make_kv_cache(model_, std::max(s.capacity, s.length + 1)));
    ++s.length;
    ids.push_back(row.token);
    caches.push_back(s.plain.get());
  }
  const at::Tensor hidden = model::decoder_step(model_, adapters_, ids, caches);
  if (wanted.empty()) return nullptr;
  const at::Tensor index = at::tensor(std::vector<int64_t>(wanted.begin(), wanted.end()), at::kLong).to(model_.device);
  logits_ = ops::head_logits(hidden.index_select(0, index), model_.head(adapters_)).to(at::kCPU, at::kFloat).contiguous();
  return data(logits_);
}

}  // namespace hone::rollout
