#include "hone/train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <numeric>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/kernels/quant.h"
#include "hone/train/optimizer_state.h"

namespace hone::train {
namespace {

// beta^n by repeated multiplication: no libm in what decides bits.
double power(double base, int64_t n) {
  double result = 1.0;
  for (int64_t i = 0; i < n; ++i) result *= base;
  return result;
}

constexpr int64_t kLeast8Bit = 4096;         // bitsandbytes' min_8bit_size
constexpr int64_t kSlabElements = 1 << 15;   // parts are stepped so many elements at a time, so that they stay in L2
constexpr int64_t kSpillElements = 4 << 20;  // spilled float32 moments so many, so that few are in memory at once

void step_reference(ops::Parameter& p, at::Tensor& m, at::Tensor& v, const kernels::AdamwScalars& s) {
  at::NoGradGuard no_grad;
  at::Tensor g = p.grad * s.grad_scale;
  p.value.mul_(1.0 - s.lr * s.weight_decay);
  m.lerp_(g, 1.0 - s.beta1);
  v.mul_(s.beta2).addcmul_(g, g, 1.0 - s.beta2);
  p.value.addcdiv_(m, (v.sqrt() / s.sqrt_bias2).add_(s.eps), -s.lr / s.bias1);
}

int64_t width(const ops::Parameter& p) { return std::max<int64_t>(p.cols, 1); }

/// Rows of one slab: whole panels, whose elements are whole blocks of 256.
int64_t slab_rows(int64_t cols) {
  const int64_t whole_blocks = kernels::kNestedBlock / std::gcd(cols, kernels::kNestedBlock);  // a power of two, as a panel's rows are
  const int64_t unit = std::max(whole_blocks, kernels::kPanel);
  return std::max(unit, kSlabElements / cols / unit * unit);
}

std::vector<Moments> shapes_of(const ops::Parameter& p, bool eight_bit) {
  std::vector<Moments> all;
  if (!eight_bit) return {{{p.name(), 0, p.rows}, {}, {}, {}, {}}};
  for (const ops::Part& part : p.parts) all.push_back({part, {}, {}, {}, {}});
  return all;
}

}  // namespace

Adamw::Adamw(std::vector<ops::Parameter*> parameters, const AdamwConfig& config) : parameters_(std::move(parameters)), config_(config) {
  for (const ops::Parameter* p : parameters_) {
    check(p->grad.defined(), "AdamW: {} has no gradient buffer", p->name());
    moments_.push_back(shapes_of(*p, config_.eight_bit));
  }
  allocate();
}

void Adamw::allocate() {
  // Twice: the first time to count what a file must hold. A file of zeros, like memory of zeros, is the state before the first step.
  std::shared_ptr<SpillFile> file;
  const auto each = [&](const auto& make) {
    for (size_t i = 0; i < parameters_.size(); ++i)
      for (Moments& m : moments_[i]) {
        const ops::Parameter& p = *parameters_[i];
        const int64_t count = m.part.rows * width(p), blocks = (count + kernels::kNestedBlock - 1) / kernels::kNestedBlock;
        const bool codes = config_.eight_bit && count >= kLeast8Bit;
        for (at::Tensor* t : {&m.first, &m.second}) {
          if (config_.eight_bit)
            make(*t, {count}, at::TensorOptions(codes ? at::kByte : at::kFloat));
          else
            make(*t, p.grad.sizes(), p.grad.options());
        }
        if (!codes) continue;
        for (at::Tensor* t : {&m.first_absmax, &m.second_absmax}) make(*t, {blocks}, at::TensorOptions(at::kFloat));
      }
  };
  if (!config_.spill_folder.empty()) {
    int64_t bytes = 0;
    each([&](at::Tensor&, at::IntArrayRef shape, const at::TensorOptions& options) {
      bytes += SpillFile::padded(c10::multiply_integers(shape) * static_cast<int64_t>(options.dtype().itemsize()));
    });
    file = std::make_shared<SpillFile>(config_.spill_folder, bytes);
  }
  each([&](at::Tensor& t, at::IntArrayRef shape, const at::TensorOptions& options) { t = zero_state(shape, options.requires_grad(false), file); });
}

void Adamw::step(double learning_rate, double grad_scale) {
  ++steps_;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const int64_t own_steps = steps_ - (i < config_.late_parameters ? config_.late_steps : 0);
    if (own_steps <= 0) continue;
    const double bias1 = 1.0 - power(config_.beta1, own_steps), bias2 = 1.0 - power(config_.beta2, own_steps);
    ops::Parameter& p = *parameters_[i];
    const kernels::AdamwScalars scalars{learning_rate * p.learning_rate_scale,      config_.beta1, config_.beta2, config_.epsilon,
                                        p.is_matrix() ? config_.weight_decay : 0.0, grad_scale,    bias1,         std::sqrt(bias2)};
    for (Moments& moments : moments_[i]) config_.eight_bit ? step_part(p, moments, scalars) : step_whole(p, moments, scalars);
  }
}

void Adamw::step_whole(ops::Parameter& p, Moments& moments, const kernels::AdamwScalars& scalars) {
  const bool spilled = !config_.spill_folder.empty();
  const int64_t count = p.value.numel();
  if (p.backend == ops::Backend::reference) {
    // Spilled moments are on the CPU whatever the device is.
    at::Tensor m = moments.first.to(p.value.device()), v = moments.second.to(p.value.device());
    step_reference(p, m, v, scalars);
    if (!m.is_same(moments.first)) moments.first.copy_(m), moments.second.copy_(v);
  } else {
    const int64_t slab = spilled ? kSpillElements : count;
    for (int64_t at = 0; at < count; at += slab) {
      const int64_t now = std::min(slab, count - at);
      kernels::adamw_step(p.value.mutable_data_ptr<float>() + at, p.grad.const_data_ptr<float>() + at, moments.first.mutable_data_ptr<float>() + at,
                          moments.second.mutable_data_ptr<float>() + at, now, scalars);
      if (!spilled) continue;
      release_pages(moments.first, at, at + now);
      release_pages(moments.second, at, at + now);
    }
  }
  if (!spilled) return;
  release_pages(moments.first, 0, count);
  release_pages(moments.second, 0, count);
}

// The blocks of 256 run over the checkpoint's tensor, row by row, whatever the layout in memory is: slabs of rows are copied out, stepped and
// copied back, each by one thread (slabs that share a panel write different lanes of it).
void Adamw::step_part(ops::Parameter& p, Moments& moments, const kernels::AdamwScalars& scalars) const {
  const int64_t cols = width(p), rows = moments.part.rows, slab = std::min(slab_rows(cols), rows), slabs = (rows + slab - 1) / slab;
  const auto body = [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(slab * cols)), gradients(values.size());
    for (int64_t row = begin * slab; row < std::min(end * slab, rows); row += slab) {
      const ops::Part now{{}, moments.part.row_begin + row, std::min(slab, rows - row)};
      ops::get_part(p, now, values.data());
      ops::get_part_gradient(p, now, gradients.data());
      step_elements(moments, row * cols, now.rows * cols, values.data(), gradients.data(), scalars);
      ops::set_part(p, now, values.data());
    }
  };
  if (p.backend == ops::Backend::kernels)
    parallel_for(slabs, 1, body);
  else
    body(0, slabs);  // ATen has threads of its own
}

void Adamw::step_elements(Moments& moments, int64_t at, int64_t count, float* values, const float* gradients,
                          const kernels::AdamwScalars& scalars) const {
  if (moments.first_absmax.defined())
    kernels::adamw_8bit_step(values, gradients, moments.first.mutable_data_ptr<uint8_t>() + at,
                             moments.first_absmax.mutable_data_ptr<float>() + at / kernels::kNestedBlock,
                             moments.second.mutable_data_ptr<uint8_t>() + at,
                             moments.second_absmax.mutable_data_ptr<float>() + at / kernels::kNestedBlock, count, scalars);
  else
    kernels::adamw_step(values, gradients, moments.first.mutable_data_ptr<float>() + at, moments.second.mutable_data_ptr<float>() + at, count,
                        scalars);
  if (config_.spill_folder.empty()) return;
  release_pages(moments.first, at, at + count);
  release_pages(moments.second, at, at + count);
}

std::vector<std::pair<std::string, at::Tensor>> Adamw::state_tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const auto& parameter : moments_)
    for (const Moments& m : parameter) {
      all.emplace_back("first/" + m.part.name, m.first);
      all.emplace_back("second/" + m.part.name, m.second);
      if (!m.first_absmax.defined()) continue;
      all.emplace_back("first_absmax/" + m.part.name, m.first_absmax);
      all.emplace_back("second_absmax/" + m.part.name, m.second_absmax);
    }
  return all;
}

int64_t Adamw::state_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : state_tensors()) bytes += static_cast<int64_t>(tensor.nbytes());
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
