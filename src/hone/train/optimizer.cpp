#include "hone/train/optimizer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numbers>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"

namespace hone::train {
namespace {

// beta^n by repeated multiplication: no libm in what decides bits.
double power(double base, int64_t n) {
  double result = 1.0;
  for (int64_t i = 0; i < n; ++i) result *= base;
  return result;
}

void step_reference(ops::Parameter& p, at::Tensor& m, at::Tensor& v, const kernels::AdamwScalars& s) {
  at::NoGradGuard no_grad;
  at::Tensor g = p.grad * s.grad_scale;
  p.value.mul_(1.0 - s.lr * s.weight_decay);
  m.lerp_(g, 1.0 - s.beta1);
  v.mul_(s.beta2).addcmul_(g, g, 1.0 - s.beta2);
  p.value.addcdiv_(m, (v.sqrt() / s.sqrt_bias2).add_(s.eps), -s.lr / s.bias1);
}

}  // namespace

Adamw::Adamw(std::vector<ops::Parameter*> parameters, const AdamwConfig& config) : parameters_(std::move(parameters)), config_(config) {
  for (const ops::Parameter* p : parameters_) {
    check(p->grad.defined(), "AdamW: {} has no gradient buffer", p->name());
    first_.push_back(at::zeros_like(p->grad));
    second_.push_back(at::zeros_like(p->grad));
  }
}

void Adamw::step(double learning_rate, double grad_scale) {
  ++steps_;
  const double bias1 = 1.0 - power(config_.beta1, steps_), bias2 = 1.0 - power(config_.beta2, steps_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    ops::Parameter& p = *parameters_[i];
    const kernels::AdamwScalars scalars{learning_rate, config_.beta1, config_.beta2,   config_.epsilon, p.is_matrix() ? config_.weight_decay : 0.0,
                                        grad_scale,    bias1,         std::sqrt(bias2)};
    if (p.backend == ops::Backend::reference)
      step_reference(p, first_[i], second_[i], scalars);
    else
      kernels::adamw_step(p.value.mutable_data_ptr<float>(), p.grad.const_data_ptr<float>(), first_[i].mutable_data_ptr<float>(),
                          second_[i].mutable_data_ptr<float>(), p.value.numel(), scalars);
  }
}

int64_t Adamw::state_bytes() const {
  int64_t bytes = 0;
  for (const at::Tensor& t : first_) bytes += 2 * t.numel() * static_cast<int64_t>(sizeof(float));
  return bytes;
}

std::vector<double> gradient_squares(const std::vector<ops::Parameter*>& parameters) {
  std::vector<double> squares;
  for (const ops::Parameter* p : parameters) {
    if (p->backend == ops::Backend::kernels)
      squares.push_back(kernels::sum_squares(p->grad.const_data_ptr<float>(), p->grad.numel()));
    else
      squares.push_back(p->grad.to(at::kDouble).square().sum().item<double>());
  }
  return squares;
}

void zero_gradients(const std::vector<ops::Parameter*>& parameters) {
  for (ops::Parameter* p : parameters) {
    if (p->backend == ops::Backend::reference) {
      p->grad.zero_();
      continue;
    }
    float* grad = p->grad.mutable_data_ptr<float>();
    parallel_for(p->grad.numel(), 1 << 18, [grad](int64_t begin, int64_t end) { std::fill(grad + begin, grad + end, 0.0f); });
  }
}

double scheduled_rate(config::Schedule schedule, double rate, int64_t step, int64_t warmup, int64_t total) {
  if (step < warmup) return rate * static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, warmup));
  const double rest = static_cast<double>(std::max<int64_t>(1, total - warmup));
  switch (schedule) {
    case config::Schedule::constant:
      return rate;
    case config::Schedule::linear:
      return rate * std::max(0.0, static_cast<double>(total - step) / rest);
    case config::Schedule::cosine: {
      double sin = 0, cos = 0;
      kernels::exact_sincos(std::numbers::pi * static_cast<double>(step - warmup) / rest, &sin, &cos);
      return rate * std::max(0.0, 0.5 * (1.0 + cos));
    }
  }
  return rate;
}

}  // namespace hone::train
