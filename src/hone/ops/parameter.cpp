#include "hone/ops/parameter.h"

#include <ATen/ATen.h>

#include <cstring>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::ops {
namespace {

// 64-byte aligned because the kernels load panels with aligned instructions; LibTorch's CPU allocator aligns to 64.
at::Tensor panels_like(int64_t rows, int64_t cols, const at::TensorOptions& options) {
  at::Tensor t = at::zeros({kernels::panel_count(rows), cols, kernels::kPanel}, options);
  check(reinterpret_cast<uintptr_t>(t.data_ptr()) % 64 == 0, "panels are not 64-byte aligned");
  return t;
}

void copy_out(const Parameter& p, const at::Tensor& source, const Part& part, float* data) {
  const int64_t width = p.is_matrix() ? p.cols : 1;
  if (!source.defined()) {
    std::memset(data, 0, sizeof(float) * part.rows * width);
  } else if (p.backend == Backend::kernels && p.is_matrix()) {
    kernels::unpack_panels(source.const_data_ptr<float>(), part.row_begin, part.rows, p.cols, data);
  } else {
    at::Tensor rows = source.slice(0, part.row_begin, part.row_begin + part.rows).to(at::kCPU, at::kFloat).contiguous();
    std::memcpy(data, rows.const_data_ptr<float>(), sizeof(float) * part.rows * width);
  }
}

}  // namespace

Parameter make_parameter(std::vector<Part> parts, int64_t cols, Backend backend, const at::TensorOptions& options) {
  Parameter p;
  for (const Part& part : parts) {
    check(part.row_begin == p.rows && part.rows > 0, "part {} begins at row {} after {} rows", part.name, part.row_begin, p.rows);
    p.rows += part.rows;
  }
  p.parts = std::move(parts);
  p.cols = cols;
  p.backend = backend;
  if (cols == 0)
    p.value = at::zeros({p.rows}, options);
  else if (backend == Backend::kernels)
    p.value = panels_like(p.rows, cols, options);
  else
    p.value = at::zeros({p.rows, cols}, options);
  return p;
}

void set_part(Parameter& p, const Part& part, const float* data) {
  at::NoGradGuard no_grad;
  if (p.backend == Backend::kernels && p.is_matrix()) {
    kernels::pack_panels(data, part.row_begin, part.rows, p.cols, p.value.mutable_data_ptr<float>());
    return;
  }
  const std::vector<int64_t> shape = p.is_matrix() ? std::vector<int64_t>{part.rows, p.cols} : std::vector<int64_t>{part.rows};
  at::Tensor source = at::from_blob(const_cast<float*>(data), shape, at::kFloat);
  p.value.slice(0, part.row_begin, part.row_begin + part.rows).copy_(source);
}

void get_part(const Parameter& p, const Part& part, float* data) { copy_out(p, p.value.detach(), part, data); }

void get_part_gradient(const Parameter& p, const Part& part, float* data) { copy_out(p, p.grad, part, data); }

void enable_gradient(Parameter& p) {
  if (!p.trainable) return;
  p.grad = at::zeros_like(p.value);
  if (p.backend == Backend::reference) {
    p.value.requires_grad_(true);
    p.value.mutable_grad() = p.grad;
  }
}

at::Tensor plain_value(const Parameter& p) {
  if (p.backend == Backend::reference || !p.is_matrix()) return p.value;
  at::Tensor out = at::empty({p.rows, p.cols}, p.value.options());
  kernels::unpack_panels(p.value.const_data_ptr<float>(), 0, p.rows, p.cols, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace hone::ops
