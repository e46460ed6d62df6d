#include "hone/ops/kernel_ops.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"
#include "hone/ops/float_data.h"

namespace hone::ops::fast {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

const int64_t* ids(const at::Tensor& t) { return t.const_data_ptr<int64_t>(); }

void require(const at::Tensor& t, int64_t dims, const char* what) {
  check(t.dim() == dims && t.is_contiguous() && t.scalar_type() == at::kFloat && t.device().is_cpu(),
        "{}: wanted a contiguous float32 CPU tensor of {} dimensions, got {} dimensions of type {}", what, dims, t.dim(),
        at::toString(t.scalar_type()));
}

// Parameters outlive the graph (the model owns them); their address travels through the saved context.
void save_pointer(AutogradContext* ctx, const char* key, const void* pointer) { ctx->saved_data[key] = reinterpret_cast<int64_t>(pointer); }
template <class T>
T* load_pointer(AutogradContext* ctx, const char* key) {
  return reinterpret_cast<T*>(ctx->saved_data[key].toInt());
}

struct Embedding : Function<Embedding> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& anchor, const at::Tensor& token_ids, int64_t table_address) {
    (void)anchor;
    const auto& table = *reinterpret_cast<Parameter*>(table_address);
    save_pointer(ctx, "table", &table);
    ctx->save_for_backward({token_ids});
    at::Tensor y = at::empty({token_ids.size(0), table.cols}, table.value.options().requires_grad(false));
    kernels::embedding_forward(data(table.value), table.cols, ids(token_ids), token_ids.size(0), out(y));
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& table = *load_pointer<Parameter>(ctx, "table");
    if (table.trainable) table.lookups.emplace_back(ctx->get_saved_variables()[0], grads[0].contiguous());
    return {at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct RmsNorm : Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t weight_address, double eps) {
    const auto& weight = *reinterpret_cast<Parameter*>(weight_address);
    require(x, 2, "rms_norm");
    check(x.size(1) == weight.rows, "rms_norm: x ({}, {}) against weight ({})", x.size(0), x.size(1), weight.rows);
    save_pointer(ctx, "weight", &weight);
    at::Tensor y = at::empty_like(x), rstd = at::empty({x.size(0)}, x.options());
    kernels::rms_norm_forward(data(x), x.size(0), x.size(1), data(weight.value), static_cast<float>(eps), out(y), out(rstd));
    ctx->save_for_backward({x, rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto& weight = *load_pointer<Parameter>(ctx, "weight");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &rstd = saved[1], dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(x);
    kernels::rms_norm_backward(data(dy), data(x), data(rstd), data(weight.value), x.size(0), x.size(1), out(dx),
                               weight.trainable ? out(weight.grad) : nullptr);
    return {dx, at::Tensor(), at::Tensor()};
  }
};

struct Swiglu : Function<Swiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    require(gate_up, 2, "swiglu");
    ctx->save_for_backward({gate_up});
    at::Tensor y = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
    kernels::swiglu_forward(data(gate_up), gate_up.size(0), gate_up.size(1) / 2, out(y));
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor gate_up = ctx->get_saved_variables()[0], dy = grads[0].contiguous();
    at::Tensor d = at::empty_like(gate_up);
    kernels::swiglu_backward(data(dy), data(gate_up), gate_up.size(0), gate_up.size(1) / 2, out(d));
    return {d};
  }
};

kernels::AttentionShape shape_of(const AttentionConfig& c, int64_t T) {
  const int64_t width = c.qkv_width();
  return {T,
          c.heads,
          c.kv_heads,
          c.head_dim,
          width,
          width,
          width,
          c.heads * c.head_dim,
          static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)))};
}

static_assert(sizeof(batch::Segment) == sizeof(kernels::Segment));
const kernels::Segment* segments_of(const BatchTensors& batch) { return reinterpret_cast<const kernels::Segment*>(batch.segments.data()); }

struct TreeAttention : Function<TreeAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, int64_t config_address, int64_t batch_address) {
    const auto& c = *reinterpret_cast<const AttentionConfig*>(config_address);
    const auto& batch = *reinterpret_cast<const BatchTensors*>(batch_address);
    require(qkv, 2, "tree_attention");
    const int64_t T = qkv.size(0), d = c.head_dim;
    check(qkv.size(1) == c.qkv_width(), "tree_attention: qkv ({}, {}), wanted width {}", T, qkv.size(1), c.qkv_width());
    float* x = qkv.mutable_data_ptr<float>();
    kernels::rope_apply(x, c.qkv_width(), T, c.heads + c.kv_heads, d, ids(batch.positions), data(c.cos), data(c.sin), false);
    at::Tensor y = at::empty({T, c.heads * d}, qkv.options());
    at::Tensor row_max = at::empty({T, c.heads}, qkv.options()), row_sum = at::empty({T, c.heads}, qkv.options());
    kernels::attention_forward(shape_of(c, T), x, x + c.heads * d, x + (c.heads + c.kv_heads) * d, segments_of(batch),
                               static_cast<int64_t>(batch.segments.size()), out(y), out(row_max), out(row_sum));
    ctx->save_for_backward({qkv, y, row_max, row_sum});
    save_pointer(ctx, "config", &c);
    save_pointer(ctx, "batch", &batch);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto& c = *load_pointer<const AttentionConfig>(ctx, "config");
    const auto& batch = *load_pointer<const BatchTensors>(ctx, "batch");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &qkv = saved[0], &y = saved[1], dy = grads[0].contiguous();
    const int64_t T = qkv.size(0), d = c.head_dim, k = c.heads * d, v = (c.heads + c.kv_heads) * d;
    at::Tensor dqkv = at::empty_like(qkv);
    const float* x = data(qkv);
    float* dx = out(dqkv);
    kernels::attention_backward(shape_of(c, T), data(dy), x, x + k, x + v, data(y), data(saved[2]), data(saved[3]), segments_of(batch),
                                static_cast<int64_t>(batch.segments.size()), dx, dx + k, dx + v);
    kernels::rope_apply(dx, c.qkv_width(), T, c.heads + c.kv_heads, d, ids(batch.positions), data(c.cos), data(c.sin), true);
    return {dqkv, at::Tensor(), at::Tensor()};
  }
};

struct ResidualAdd : Function<ResidualAdd> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& a, const at::Tensor& b) {
    require(a, 2, "residual_add");
    at::Tensor y = at::empty_like(a);
    kernels::add(data(a), data(b), a.numel(), out(y));
    return y;
  }
  static variable_list backward(AutogradContext*, variable_list grads) { return {grads[0], grads[0]}; }
};

// The head over predictions, in chunks of rows; holds one chunk of logits.
struct HeadPass {
  const Parameter& head;
  const BatchTensors& batch;
  float inv_temperature;
  at::Tensor rows, logits;  // (chunk, D), (chunk, V)

  HeadPass(const Parameter& head_, const BatchTensors& batch_, double temperature)
      : head(head_), batch(batch_), inv_temperature(static_cast<float>(1.0 / temperature)) {
    const int64_t chunk = std::min<int64_t>(kLogprobChunk, batch.targets.size(0));
    rows = at::empty({chunk, head.cols}, at::kFloat);
    logits = at::empty({chunk, head.rows}, at::kFloat);
  }
  void compute_logits(const at::Tensor& hidden, int64_t begin, int64_t end) {
    const int64_t D = head.cols;
    for (int64_t n = begin; n < end; ++n) std::copy_n(data(hidden) + ids(batch.predict_from)[n] * D, D, out(rows) + (n - begin) * D);
    kernels::linear_forward(data(rows), D, end - begin, D, data(head.value), head.rows, nullptr, out(logits), head.rows);
  }
  // logits hold dlogits now: adds to the head's gradient and, row by row in data order, to dhidden.
  void backward(int64_t begin, int64_t end, at::Tensor& drows, at::Tensor& dhidden) {
    const int64_t D = head.cols, V = head.rows, M = end - begin;
    if (head.trainable) kernels::linear_backward_weight(data(logits), V, M, V, data(rows), D, D, head.grad.mutable_data_ptr<float>());
    kernels::linear_backward_input(data(logits), V, M, V, data(head.value), D, out(drows), D);
    for (int64_t n = begin; n < end; ++n) {
      float* to = out(dhidden) + ids(batch.predict_from)[n] * D;
      kernels::add(to, data(drows) + (n - begin) * D, D, to);
    }
  }
};

// The pass of a forward whose backward is to come: the first chunk's logits stay in it, so that the backward need not make them again.
struct HeldPass : torch::CustomClassHolder {
  explicit HeldPass(HeadPass p) : pass(std::move(p)) {}
  std::optional<HeadPass> pass;
};

struct HeadOutputs {
  at::Tensor logprobs, lse, entropy, log_sum_p2, mean_logit, argmax;
};

struct TokenLogprobsFunction : Function<TokenLogprobsFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden, int64_t head_address, int64_t batch_address, int64_t options_address,
                               int64_t outputs_address) {
    const auto& head = *reinterpret_cast<Parameter*>(head_address);
    const auto& batch = *reinterpret_cast<const BatchTensors*>(batch_address);
    const auto& options = *reinterpret_cast<const LogprobOptions*>(options_address);
    auto& o = *reinterpret_cast<HeadOutputs*>(outputs_address);
    require(hidden, 2, "token_logprobs");
    const int64_t N = batch.targets.size(0), D = head.cols;
    const bool early = options.known_cotangent.has_value() && hidden.requires_grad();
    HeadPass pass(head, batch, options.temperature);
    at::Tensor drows, dhidden;
    if (early) {
      drows = at::empty({kLogprobChunk, D}, hidden.options().requires_grad(false));
      dhidden = at::zeros_like(hidden);
    }
    // Rows do not depend on each other: where the backward comes later, the first chunk is made last and kept.
    const bool keep = !early && hidden.requires_grad();
    const int64_t chunks = (N + kLogprobChunk - 1) / kLogprobChunk;
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t begin = (keep ? chunks - 1 - i : i) * kLogprobChunk, end = std::min(N, begin + kLogprobChunk);
      pass.compute_logits(hidden, begin, end);
      const kernels::LogprobOutputs outputs{out(o.logprobs) + begin,
                                            out(o.lse) + begin,
                                            out(o.entropy) + begin,
                                            options.statistics ? out(o.log_sum_p2) + begin : nullptr,
                                            options.statistics ? out(o.mean_logit) + begin : nullptr,
                                            o.argmax.mutable_data_ptr<int64_t>() + begin};
      kernels::logprobs_forward(data(pass.logits), head.rows, end - begin, head.rows, ids(batch.targets) + begin, pass.inv_temperature, outputs);
      if (!early) continue;
      kernels::logprobs_backward(out(pass.logits), head.rows, end - begin, head.rows, ids(batch.targets) + begin, pass.inv_temperature,
                                 data(o.lse) + begin, data(*options.known_cotangent) + begin, nullptr, nullptr);
      pass.backward(begin, end, drows, dhidden);
    }
    save_pointer(ctx, "head", &head);
    save_pointer(ctx, "batch", &batch);
    ctx->saved_data["temperature"] = options.temperature;
    ctx->saved_data["early"] = early;
    if (early)
      ctx->save_for_backward({dhidden, *options.known_cotangent});
    else
      ctx->save_for_backward({hidden, o.lse, o.entropy});
    if (keep) ctx->saved_data["pass"] = c10::IValue::make_capsule(c10::make_intrusive<HeldPass>(std::move(pass)));
    return {o.logprobs, o.entropy};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor none;
    if (ctx->saved_data["early"].toBool()) {
      // dlogits were made in the forward from this very cotangent.
      check(grads[0].defined() && at::equal(grads[0], saved[1]) && (!grads[1].defined() || at::equal(grads[1], at::zeros_like(grads[1]))),
            "token_logprobs: the cotangent of the backward differs from the one announced");
      return {saved[0], none, none, none, none};
    }
    const auto& head = *load_pointer<const Parameter>(ctx, "head");
    const auto& batch = *load_pointer<const BatchTensors>(ctx, "batch");
    const int64_t N = batch.targets.size(0), D = head.cols;
    const at::Tensor& hidden = saved[0];
    const at::Tensor g = grads[0].defined() ? grads[0].contiguous() : at::zeros({N}, hidden.options());
    const at::Tensor g_entropy = grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    std::optional<HeadPass>& held = c10::static_intrusive_pointer_cast<HeldPass>(ctx->saved_data["pass"].toCapsule())->pass;
    check(held.has_value(), "token_logprobs: a second backward through the same forward");
    HeadPass pass = *std::exchange(held, std::nullopt);
    at::Tensor drows = at::empty({kLogprobChunk, D}, hidden.options()), dhidden = at::zeros_like(hidden);
    for (int64_t begin = 0; begin < N; begin += kLogprobChunk) {
      const int64_t end = std::min(N, begin + kLogprobChunk);
      if (begin > 0) pass.compute_logits(hidden, begin, end);
      kernels::logprobs_backward(out(pass.logits), head.rows, end - begin, head.rows, ids(batch.targets) + begin, pass.inv_temperature,
                                 data(saved[1]) + begin, data(g) + begin, g_entropy.defined() ? data(g_entropy) + begin : nullptr,
                                 data(saved[2]) + begin);
      pass.backward(begin, end, drows, dhidden);
    }
    return {dhidden, none, none, none, none};
  }
};

int64_t address(const void* pointer) { return reinterpret_cast<int64_t>(pointer); }

}  // namespace

at::Tensor embedding(Parameter& table, const at::Tensor& token_ids, const at::Tensor& anchor) {
  return Embedding::apply(anchor, token_ids, address(&table));
}

at::Tensor rms_norm(const at::Tensor& x, Parameter& weight, double eps) { return RmsNorm::apply(x, address(&weight), eps); }

at::Tensor swiglu(const at::Tensor& gate_up) { return Swiglu::apply(gate_up); }

at::Tensor residual_add(const at::Tensor& a, const at::Tensor& b) { return ResidualAdd::apply(a, b); }

at::Tensor tree_attention(const at::Tensor& qkv, const AttentionConfig& config, const BatchTensors& batch) {
  return TreeAttention::apply(qkv, address(&config), address(&batch));
}

at::Tensor cached_attention(const at::Tensor& qkv, const AttentionConfig& c, const std::vector<int64_t>& positions,
                            const std::vector<KvLayer*>& caches) {
  require(qkv, 2, "cached_attention");
  const int64_t R = qkv.size(0), d = c.head_dim, width = c.qkv_width();
  float* x = qkv.mutable_data_ptr<float>();
  float* k = x + c.heads * d;
  float* v = x + (c.heads + c.kv_heads) * d;
  kernels::rope_apply(x, width, R, c.heads + c.kv_heads, d, positions.data(), data(c.cos), data(c.sin), false);
  std::vector<kernels::KvView> views(R);
  std::vector<const kernels::KvView*> pointers(R);
  std::vector<int64_t> visible(R);
  for (int64_t r = 0; r < R; ++r) {
    KvLayer& cache = *caches[r];
    views[r] = {out(cache.keys), out(cache.values), cache.values.size(1), positions[r]};
    check(positions[r] < views[r].capacity, "cached_attention: position {} of a cache of {}", positions[r], views[r].capacity);
    kernels::kv_append(views[r], c.kv_heads, d, k + r * width, width, v + r * width, width, 1);
    visible[r] = ++views[r].length;
    pointers[r] = &views[r];
  }
  at::Tensor y = at::empty({R, c.heads * d}, qkv.options());
  kernels::attention_cached(R, c.heads, c.kv_heads, d, shape_of(c, R).scale, x, width, pointers.data(), visible.data(), out(y), c.heads * d);
  return y;
}

TokenLogprobs token_logprobs(const at::Tensor& hidden, Parameter& head, const BatchTensors& batch, const LogprobOptions& options) {
  check(options.temperature > 0, "token_logprobs: temperature {}", options.temperature);
  const int64_t N = batch.targets.size(0);
  const auto floats = at::TensorOptions(at::kFloat);
  HeadOutputs o{at::empty({N}, floats), at::empty({N}, floats), at::empty({N}, floats),
                at::zeros({N}, floats), at::zeros({N}, floats), at::empty({N}, at::kLong)};
  const variable_list y = TokenLogprobsFunction::apply(hidden, address(&head), address(&batch), address(&options), address(&o));
  return {y[0], y[1], o.log_sum_p2, o.mean_logit, o.argmax == batch.targets};
}

at::Tensor head_logits(const at::Tensor& hidden, Parameter& head) {
  require(hidden, 2, "head_logits");
  at::Tensor y = at::empty({hidden.size(0), head.rows}, hidden.options());
  kernels::linear_forward(data(hidden), head.cols, hidden.size(0), head.cols, data(head.value), head.rows, nullptr, out(y), head.rows);
  return y;
}

}  // namespace hone::ops::fast
