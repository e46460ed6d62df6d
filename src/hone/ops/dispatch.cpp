// The only device switch: which code an op runs on.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"
#include "hone/ops/kernel_ops.h"
#include "hone/ops/reference.h"

namespace hone::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Layer = std::function<at::Tensor(const at::Tensor&)>;

// MKL chooses the code of each vector function at its first call, and when that call comes from two threads at once, one of them may run a
// low-accuracy variant for its share (errors of 1e-5 to 1e-4, once per process; pytorch issue 188792). So every function that ATen sends
// there is called on one element before main(), while there is one thread.
const bool kVectorMathReady = [] {
  using Unary = at::Tensor (*)(const at::Tensor&);
  constexpr Unary kFunctions[] = {at::acos, at::asin, at::atan,  at::cos, at::erf,  at::erfc, at::erfinv, at::exp,
                                  at::log,  at::log2, at::log10, at::sin, at::sqrt, at::tan,  at::tanh,   at::trunc};
  for (const auto dtype : {at::kFloat, at::kDouble})
    for (const Unary function : kFunctions) function(at::full({1}, 0.5, dtype));
  return true;
}();

struct Checkpointed : Function<Checkpointed> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& anchor, int64_t layer_address) {
    (void)anchor;
    auto layer = std::make_shared<Layer>(*reinterpret_cast<const Layer*>(layer_address));
    ctx->save_for_backward({x});
    ctx->saved_data["layer"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(layer));
    at::NoGradGuard no_grad;
    return (*layer)(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto held = c10::static_intrusive_pointer_cast<Held>(ctx->saved_data["layer"].toCapsule());
    at::Tensor x = ctx->get_saved_variables()[0].detach();
    x.requires_grad_(ctx->needs_input_grad(0));
    at::AutoGradMode with_grad(true);
    at::Tensor y = (*held->layer)(x);
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), at::Tensor(), at::Tensor()};
  }

 private:
  struct Held : torch::CustomClassHolder {
    explicit Held(std::shared_ptr<Layer> l) : layer(std::move(l)) {}
    std::shared_ptr<Layer> layer;
  };
};

struct SequenceSum : Function<SequenceSum> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& values, const at::Tensor& sequence_ids, int64_t num_sequences) {
    ctx->save_for_backward({sequence_ids});
    ctx->saved_data["dtype"] = static_cast<int64_t>(values.scalar_type());
    ctx->saved_data["cuda"] = values.is_cuda();
    at::Tensor v = values.detach().to(at::kCPU, at::kDouble).contiguous(), s = sequence_ids.to(at::kCPU).contiguous();
    at::Tensor sums = at::zeros({num_sequences}, at::kDouble);
    double* sum = sums.mutable_data_ptr<double>();
    for (int64_t n = 0; n < v.size(0); ++n) sum[s.const_data_ptr<int64_t>()[n]] += v.const_data_ptr<double>()[n];
    return sums;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor sequence_ids = ctx->get_saved_variables()[0];
    const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt());
    return {grads[0].to(sequence_ids.device()).index_select(0, sequence_ids).to(dtype), at::Tensor(), at::Tensor()};
  }
};

bool fast_path(Backend backend) { return backend == Backend::kernels; }

}  // namespace

BatchTensors make_batch_tensors(const batch::PackedBatch& b, const at::Device& device) {
  batch::validate(b);
  const auto longs = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device); };
  return {longs(b.token_ids),    longs(b.positions),
          longs(b.predict_from), longs(b.targets),
          longs(b.sequence_ids), at::tensor(b.weights, at::kFloat).to(device),
          longs(b.score_at),     b.segments,
          b.num_sequences};
}

at::Tensor embedding(Parameter& table, const at::Tensor& ids, const at::Tensor& anchor) {
  return fast_path(table.backend) ? fast::embedding(table, ids, anchor) : reference::embedding(table, ids);
}

void flush_lookups(Parameter& table) {
  for (const auto& [ids, rows] : table.lookups)
    kernels::embedding_backward(rows.const_data_ptr<float>(), table.cols, ids.const_data_ptr<int64_t>(), ids.size(0),
                                table.grad.mutable_data_ptr<float>());
  table.lookups.clear();
}

at::Tensor linear(const at::Tensor& x, Parameter& weight, Parameter* bias, const AdapterSet* adapters, const LinearInput& input) {
  return fast_path(weight.backend) ? fast::linear(x, weight, bias, adapters, input) : reference::linear(x, weight, bias, adapters, input);
}

at::Tensor rms_norm(const at::Tensor& x, Parameter& weight, double eps) {
  return fast_path(weight.backend) ? fast::rms_norm(x, weight, eps) : reference::rms_norm(x, weight, eps);
}

at::Tensor swiglu(const at::Tensor& gate_up, Backend backend) { return fast_path(backend) ? fast::swiglu(gate_up) : reference::swiglu(gate_up); }

at::Tensor tree_attention(const at::Tensor& qkv, const AttentionConfig& config, const BatchTensors& batch, Backend backend) {
  return fast_path(backend) ? fast::tree_attention(qkv, config, batch) : reference::tree_attention(qkv, config, batch);
}

at::Tensor cached_attention(const at::Tensor& qkv, const AttentionConfig& config, const std::vector<int64_t>& positions,
                            const std::vector<KvLayer*>& caches, Backend backend) {
  check(!at::GradMode::is_enabled(), "cached_attention has no gradient");
  return fast_path(backend) ? fast::cached_attention(qkv, config, positions, caches) : reference::cached_attention(qkv, config, positions, caches);
}

KvLayer make_kv_layer(const AttentionConfig& config, int64_t capacity, Backend backend, const at::Device& device) {
  const int64_t G = config.kv_heads, d = config.head_dim, padded = (capacity + 15) / 16 * 16;
  const auto options = at::TensorOptions(at::kFloat).device(device);
  if (fast_path(backend)) return {at::zeros({G, padded / 16, d, 16}, options), at::zeros({G, padded, d}, options)};
  return {at::zeros({padded, G, d}, options), at::zeros({padded, G, d}, options)};
}

at::Tensor residual_add(const at::Tensor& a, const at::Tensor& b, Backend backend) { return fast_path(backend) ? fast::residual_add(a, b) : a + b; }

TokenLogprobs token_logprobs(const at::Tensor& hidden, Parameter& head, const BatchTensors& batch, const LogprobOptions& options) {
  return fast_path(head.backend) ? fast::token_logprobs(hidden, head, batch, options) : reference::token_logprobs(hidden, head, batch, options);
}

at::Tensor head_logits(const at::Tensor& hidden, Parameter& head) {
  return fast_path(head.backend) ? fast::head_logits(hidden, head) : reference::head_logits(hidden, head);
}

at::Tensor sequence_sum(const at::Tensor& values, const at::Tensor& sequence_ids, int64_t num_sequences) {
  return SequenceSum::apply(values, sequence_ids, num_sequences);
}

at::Tensor checkpointed(const at::Tensor& x, const Layer& layer, const at::Tensor& anchor) {
  const bool anchored = anchor.defined() && anchor.requires_grad();
  if (!at::GradMode::is_enabled() || !(x.requires_grad() || anchored)) return layer(x);
  static const at::Tensor no_anchor = at::zeros({});
  return Checkpointed::apply(x, anchored ? anchor : no_anchor, reinterpret_cast<int64_t>(&layer));
}

}  // namespace hone::ops
