// The fused linear on hone's kernels: what makes its input, the dense or 4-bit product, the low-rank side path, and their backward.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"
#include "hone/ops/dropout.h"
#include "hone/ops/float_data.h"
#include "hone/ops/kernel_ops.h"

namespace hone::ops::fast {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// The base's products, and what goes on from their chains. Parameters outlive the graph: the model and the adapters own them.
using Sides = std::vector<kernels::SideProduct>;
kernels::SideProducts view(const Sides& sides) { return {sides.data(), static_cast<int64_t>(sides.size())}; }

void product(const Tensor& x, const Parameter& w, const Parameter* bias, const Sides& sides, Tensor& y) {
  const float* b = bias ? data(bias->value) : nullptr;
  if (w.is_quantised())
    kernels::linear_forward_quant(data(x), w.cols, x.size(0), w.cols, quant_panels(w), w.rows, b, out(y), w.rows, false, view(sides));
  else
    kernels::linear_forward(data(x), w.cols, x.size(0), w.cols, data(w.value), w.rows, b, out(y), w.rows, false, view(sides));
}

void product_backward(const Tensor& dy, const Parameter& w, const Sides& sides, Tensor& dx) {
  if (w.is_quantised())
    kernels::linear_backward_input_quant(data(dy), w.rows, dy.size(0), w.rows, quant_panels(w), w.cols, out(dx), w.cols, false, view(sides));
  else
    kernels::linear_backward_input(data(dy), w.rows, dy.size(0), w.rows, data(w.value), w.cols, out(dx), w.cols, false, view(sides));
}

struct Call : torch::CustomClassHolder {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;
  const SidePath* side = nullptr;
  const SideDropout* dropout = nullptr;  // null: none
  bool train_side = false;
  LinearInput input;
};

// ---- the side path ---------------------------------------------------------------------------------------------------------------------
bool has_magnitude(const SidePath& side) { return side.targets.front().magnitude.defined(); }

// Input times mask of one target: what its A reads in training with dropout.
Tensor dropped(const Call& call, size_t target, const Tensor& x) {
  Tensor y = at::empty_like(x);
  apply_dropout(*call.dropout, call.side->index, static_cast<uint32_t>(target), data(x), x.size(0), x.size(1), out(y));
  return y;
}

// h (M, R) = scaling * x A^T, each target its own columns.
Tensor low_rank(const Call& call, const Tensor& x) {
  const Parameter& a = call.side->a;
  const int64_t M = x.size(0), K = a.cols, R = a.rows;
  Tensor h = at::empty({M, R}, x.options());
  const auto project = [&](const Tensor& from, Tensor& to) { kernels::linear_forward(data(from), K, M, K, data(a.value), R, nullptr, out(to), R); };
  if (!call.dropout) project(x, h);
  for (size_t i = 0; i < call.side->targets.size(); ++i) {
    const SideTarget& t = call.side->targets[i];
    Tensor columns = h.slice(1, t.a_begin, t.a_begin + t.r);
    if (call.dropout) {
      Tensor all = at::empty_like(h);
      project(dropped(call, i, x), all);
      columns.copy_(all.slice(1, t.a_begin, t.a_begin + t.r));
    }
    columns.mul_(t.scaling);
  }
  return h;
}

// What y goes on by from the base's accumulator: B over r.
Sides forward_sides(const SidePath& side, const Tensor& h) {
  Sides sides;
  for (const SideTarget& t : side.targets) sides.push_back({data(h) + t.a_begin, h.size(1), t.r, data(t.b.value), t.row_begin, t.rows});
  return sides;
}

// DoRA: the factor of every output, magnitude / weight_norm (1 for outputs without a target).
Tensor output_factor(const Parameter& weight, const SidePath& side) {
  Tensor factor = at::ones({weight.rows}, at::kFloat);
  for (const SideTarget& t : side.targets)
    factor.slice(0, t.row_begin, t.row_begin + t.rows).copy_(t.magnitude.value / side_weight_norm(weight, side, t));
  return factor;
}

// dy -> du for u = W x + side, y = u * factor; the magnitudes' gradients go on, row by row.
Tensor magnitude_backward(const Call& call, const Tensor& dy, const Tensor& u) {
  const int64_t N = call.weight->rows;
  if (call.train_side) {
    Tensor products = dy * u;
    for (const SideTarget& t : call.side->targets) {
      Tensor columns = (products.slice(1, t.row_begin, t.row_begin + t.rows) / side_weight_norm(*call.weight, *call.side, t)).contiguous();
      kernels::bias_backward(data(columns), t.rows, columns.size(0), t.rows, const_cast<Tensor&>(t.magnitude.grad).mutable_data_ptr<float>());
    }
  }
  return dy * output_factor(*call.weight, *call.side).view({1, N});
}

// dh (M, R), the gradient of the scaled x A^T; B's gradients go on. h is that of the forward.
Tensor low_rank_backward(const Call& call, const Tensor& dy, const Tensor& h) {
  const int64_t M = dy.size(0), N = dy.size(1), R = call.side->a.rows;
  Tensor dh = at::empty({M, R}, dy.options());
  for (const SideTarget& t : call.side->targets) {
    const float* d = data(dy) + t.row_begin;
    kernels::linear_backward_input(d, N, M, t.rows, data(t.b.value), t.r, out(dh) + t.a_begin, R);
    if (call.train_side)
      kernels::linear_backward_weight(d, N, M, t.rows, data(h) + t.a_begin, R, t.r, const_cast<Tensor&>(t.b.grad).mutable_data_ptr<float>());
    dh.slice(1, t.a_begin, t.a_begin + t.r).mul_(t.scaling);
  }
  return dh;
}

// The columns of one target, zeros elsewhere.
Tensor columns_of(const SideTarget& t, const Tensor& dh) {
  Tensor own = at::zeros_like(dh);
  own.slice(1, t.a_begin, t.a_begin + t.r).copy_(dh.slice(1, t.a_begin, t.a_begin + t.r));
  return own;
}

// A's gradient goes on; x is the linear's input.
void side_weight_backward(const Call& call, const Tensor& dh, const Tensor& x) {
  const Parameter& a = call.side->a;
  const auto go_on = [&](const Tensor& d, const Tensor& from) {
    kernels::linear_backward_weight(data(d), a.rows, d.size(0), a.rows, data(from), a.cols, a.cols,
                                    const_cast<Tensor&>(a.grad).mutable_data_ptr<float>());
  };
  if (!call.dropout) return go_on(dh, x);
  for (size_t i = 0; i < call.side->targets.size(); ++i) go_on(columns_of(call.side->targets[i], dh), dropped(call, i, x));
}

// dx goes on through the dropout of each target; without dropout it does so within the base's product.
void dropout_input_backward(const Call& call, const Tensor& dh, Tensor& dx) {
  const Parameter& a = call.side->a;
  for (size_t i = 0; i < call.side->targets.size(); ++i) {
    const Tensor own = columns_of(call.side->targets[i], dh);
    Tensor part = at::empty_like(dx);
    kernels::linear_backward_input(data(own), a.rows, own.size(0), a.rows, data(a.value), a.cols, out(part), a.cols);
    kernels::add(data(dx), data(dropped(call, i, part)), dx.numel(), out(dx));
  }
}

// ---- the input -------------------------------------------------------------------------------------------------------------------------
// The linear's input from x; rstd (M) is made where undefined.
Tensor make_input(const LinearInput& how, const Tensor& x, Tensor& rstd) {
  if (how.norm) {
    Tensor y = at::empty_like(x);
    rstd = at::empty({x.size(0)}, x.options());
    kernels::rms_norm_forward(data(x), x.size(0), x.size(1), data(how.norm->value), static_cast<float>(how.eps), out(y), out(rstd));
    return y;
  }
  if (how.swiglu) {
    Tensor y = at::empty({x.size(0), x.size(1) / 2}, x.options());
    kernels::swiglu_forward(data(x), x.size(0), x.size(1) / 2, out(y));
    return y;
  }
  return x;
}

Tensor input_backward(const LinearInput& how, const Tensor& dinput, const Tensor& x, const Tensor& rstd) {
  if (how.norm) {
    Tensor dx = at::empty_like(x);
    kernels::rms_norm_backward(data(dinput), data(x), data(rstd), data(how.norm->value), x.size(0), x.size(1), out(dx),
                               how.norm->trainable ? out(how.norm->grad) : nullptr);
    return dx;
  }
  if (how.swiglu) {
    Tensor dx = at::empty_like(x);
    kernels::swiglu_backward(data(dinput), data(x), x.size(0), x.size(1) / 2, out(dx));
    return dx;
  }
  return dinput;
}

struct Linear : Function<Linear> {
  // `anchor` requires grad where the side path is trained, so that the graph exists above a frozen input.
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& anchor, const c10::intrusive_ptr<Call>& call) {
    (void)anchor;
    const Parameter& weight = *call->weight;
    check(x.dim() == 2 && x.is_contiguous() && x.scalar_type() == at::kFloat && x.size(1) == weight.cols * (call->input.swiglu ? 2 : 1),
          "linear {}: x of {} dimensions and width {} against weight ({}, {})", weight.name(), x.dim(), x.size(-1), weight.rows, weight.cols);
    Tensor rstd, h, u;
    const Tensor input = make_input(call->input, x, rstd);
    Tensor y = at::empty({x.size(0), weight.rows}, x.options());
    if (!call->side) {
      product(input, weight, call->bias, {}, y);
    } else {
      h = low_rank(*call, input);
      product(input, weight, nullptr, forward_sides(*call->side, h), y);
      if (has_magnitude(*call->side)) {
        u = y;
        y = u * output_factor(weight, *call->side).view({1, weight.rows});
      }
      if (call->bias) y.add_(call->bias->value);  // the bias last
    }
    // The backward needs x for the weights' gradients and for going back through norm or swiglu.
    const bool keep_x = weight.trainable || call->train_side || call->input.norm || call->input.swiglu;
    ctx->save_for_backward({keep_x ? x : Tensor(), rstd, call->train_side ? h : Tensor(), call->train_side || u.defined() ? u : Tensor()});
    ctx->saved_data["call"] = c10::IValue::make_capsule(call);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto call = c10::static_intrusive_pointer_cast<Call>(ctx->saved_data["call"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &h = saved[2], &u = saved[3];
    Parameter& weight = *call->weight;
    Tensor dy = grads[0].contiguous();
    const int64_t M = dy.size(0), N = weight.rows, K = weight.cols;
    if (call->bias && call->bias->trainable) kernels::bias_backward(data(dy), N, M, N, out(call->bias->grad));
    if (u.defined()) dy = magnitude_backward(*call, dy, u);
    Tensor input, unused = at::empty({0}, dy.options());
    if (weight.trainable || call->train_side) input = make_input(call->input, x, unused);
    if (weight.trainable) kernels::linear_backward_weight(data(dy), N, M, N, data(input), K, K, out(weight.grad));
    const bool wants_dx = ctx->needs_input_grad(0) || (call->input.norm && call->input.norm->trainable);
    Tensor dinput, dh, dx;
    Sides sides;
    if (call->side) {
      dh = low_rank_backward(*call, dy, h);
      if (call->train_side) side_weight_backward(*call, dh, input);
      if (!call->dropout) sides.push_back({data(dh), dh.size(1), dh.size(1), data(call->side->a.value), 0, K});
    }
    if (wants_dx) {
      dinput = at::empty({M, K}, dy.options());
      product_backward(dy, weight, sides, dinput);
      if (call->dropout) dropout_input_backward(*call, dh, dinput);
    }
    if (wants_dx) dx = input_backward(call->input, dinput, x, saved[1]);
    return {ctx->needs_input_grad(0) ? dx : Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor linear(const Tensor& x, Parameter& weight, Parameter* bias, const AdapterSet* adapters, const LinearInput& input) {
  auto call = c10::make_intrusive<Call>();
  call->weight = &weight;
  call->bias = bias;
  call->input = input;
  call->side = adapters ? adapters->path(weight) : nullptr;
  static const Tensor no_anchor = at::zeros({});
  Tensor anchor = no_anchor;
  if (call->side) {
    call->train_side = adapters->anchor.defined() && call->side->a.grad.defined() && at::GradMode::is_enabled();
    if (call->train_side) anchor = adapters->anchor;
    if (adapters->dropout.active()) call->dropout = &adapters->dropout;
  }
  return Linear::apply(x, anchor, call);
}

}  // namespace hone::ops::fast
