#include "hone/ops/parameter.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

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

Parameter shaped(std::vector<Part> parts, int64_t cols, Backend backend) {
  Parameter p;
  for (const Part& part : parts) {
    check(part.row_begin == p.rows && part.rows > 0, "part {} begins at row {} after {} rows", part.name, part.row_begin, p.rows);
    p.rows += part.rows;
  }
  p.parts = std::move(parts);
  p.cols = cols;
  p.backend = backend;
  return p;
}

at::Tensor dequantised(const Parameter& p, int64_t row_begin, int64_t rows) {
  if (p.backend == Backend::kernels) {
    at::Tensor w = at::empty({rows, p.cols}, p.scales.options());
    kernels::unpack_quant_panels(quant_panels(p), row_begin, rows, p.cols, w.mutable_data_ptr<float>());
    return w;
  }
  const at::Tensor codes = p.codes.slice(0, row_begin, row_begin + rows);
  const auto per_weight = [&](const at::Tensor& blocks) {
    return blocks.slice(0, row_begin, row_begin + rows).repeat_interleave(kernels::quant_run(p.cols, p.quant), 1);
  };
  if (p.quant == kernels::QuantType::int8) return codes.view(at::kChar).to(at::kFloat) * per_weight(p.scales);
  const at::Tensor map = at::from_blob(const_cast<float*>(kernels::quant_map(p.quant)), {16}, at::kFloat).to(p.codes.device());
  const at::Tensor scaled = map.index({codes.to(at::kInt)}) * per_weight(p.scales);
  return p.minimums.defined() ? scaled + per_weight(p.minimums) : scaled;
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

kernels::QuantPanels quant_panels(const Parameter& p) {
  check(p.is_quantised() && p.backend == Backend::kernels, "{} has no quantised panels", p.name());
  return {p.codes.const_data_ptr<uint8_t>(), p.scales.const_data_ptr<float>(), p.quant,
          p.minimums.defined() ? p.minimums.const_data_ptr<float>() : nullptr};
}

int64_t value_bytes(const Parameter& p) {
  const auto bytes = [](const at::Tensor& t) { return t.defined() ? static_cast<int64_t>(t.nbytes()) : 0; };
  return bytes(p.value) + bytes(p.codes) + bytes(p.scales) + bytes(p.minimums);
}

Parameter make_parameter(std::vector<Part> parts, int64_t cols, Backend backend, const at::TensorOptions& options) {
  Parameter p = shaped(std::move(parts), cols, backend);
  if (cols == 0)
    p.value = at::zeros({p.rows}, options);
  else if (backend == Backend::kernels)
    p.value = panels_like(p.rows, cols, options);
  else
    p.value = at::zeros({p.rows, cols}, options);
  return p;
}

Parameter make_quantised_parameter(std::vector<Part> parts, int64_t cols, kernels::QuantType type, Backend backend,
                                   const at::TensorOptions& options) {
  Parameter p = shaped(std::move(parts), cols, backend);
  p.trainable = false;
  p.quant = type;
  const auto bytes = options.dtype(at::kByte), floats = options.dtype(at::kFloat);
  const int64_t runs = cols / kernels::quant_run(cols, type);
  if (backend == Backend::kernels) {
    p.codes = at::zeros({kernels::panel_count(p.rows), cols, kernels::quant_step_bytes(type)}, bytes);
    p.scales = at::zeros({kernels::panel_count(p.rows), runs, kernels::kPanel}, floats);
  } else {
    p.codes = at::zeros({p.rows, cols}, bytes);
    p.scales = at::zeros({p.rows, runs}, floats);
  }
  if (kernels::has_minimums(type)) p.minimums = at::zeros_like(p.scales);
  return p;
}

namespace {

// One value of each run of each row of a part, out of those of the flattened tensor's blocks.
at::Tensor values_of_runs(const Parameter& p, const Part& part, const float* blocks) {
  const int64_t run = kernels::quant_run(p.cols, p.quant), runs = p.cols / run;
  at::Tensor values = at::empty({part.rows, runs}, at::kFloat);
  for (int64_t i = 0; i < part.rows * runs; ++i) values.mutable_data_ptr<float>()[i] = blocks[i * run / kernels::quant_block(p.quant)];
  return values;
}

}  // namespace

void set_quantised_part(Parameter& p, const Part& part, const uint8_t* codes, const float* absmax, const float* minimums) {
  check(p.is_quantised(), "{} is not a quantised parameter", p.name());
  check((minimums != nullptr) == kernels::has_minimums(p.quant), "{}: minimums do not go with its type", p.name());
  if (p.backend == Backend::kernels) {
    kernels::pack_quant_panels(codes, absmax, part.row_begin, part.rows, p.cols, p.codes.mutable_data_ptr<uint8_t>(),
                               p.scales.mutable_data_ptr<float>(), p.quant);
    if (minimums) kernels::pack_quant_minimums(minimums, part.row_begin, part.rows, p.cols, p.quant, p.minimums.mutable_data_ptr<float>());
    return;
  }
  at::Tensor rows = at::empty({part.rows, p.cols}, at::kByte);
  for (int64_t i = 0; i < part.rows * p.cols; ++i)
    rows.mutable_data_ptr<uint8_t>()[i] = p.quant == kernels::QuantType::int8 ? codes[i]
                                          : i % 2 == 0                        ? static_cast<uint8_t>(codes[i / 2] >> 4)
                                                                              : static_cast<uint8_t>(codes[i / 2] & 15);
  p.codes.slice(0, part.row_begin, part.row_begin + part.rows).copy_(rows);
  p.scales.slice(0, part.row_begin, part.row_begin + part.rows).copy_(values_of_runs(p, part, absmax));
  if (minimums) p.minimums.slice(0, part.row_begin, part.row_begin + part.rows).copy_(values_of_runs(p, part, minimums));
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

void get_part(const Parameter& p, const Part& part, float* data) {
  if (p.is_quantised()) {
    at::Tensor rows = dequantised(p, part.row_begin, part.rows).cpu().contiguous();
    std::memcpy(data, rows.const_data_ptr<float>(), sizeof(float) * rows.numel());
    return;
  }
  copy_out(p, p.value.detach(), part, data);
}

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
  if (p.is_quantised()) return dequantised(p, 0, p.rows);
  if (p.backend == Backend::reference || !p.is_matrix()) return p.value;
  at::Tensor out = at::empty({p.rows, p.cols}, p.value.options());
  kernels::unpack_panels(p.value.const_data_ptr<float>(), 0, p.rows, p.cols, out.mutable_data_ptr<float>());
  return out;
}

}  // namespace hone::ops
