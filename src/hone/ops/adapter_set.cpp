#include "hone/ops/adapter_set.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"

namespace hone::ops {
namespace {

constexpr int64_t kRowSlice = 256;  // rows of W + BA that stand in memory at a time

// out (rows, K) = W + scaling B A; on the kernel backend one chain that goes on from W's value.
void low_rank_sum(const Parameter& weight, const SidePath& path, const SideTarget& target, int64_t begin, int64_t rows, float* out) {
  const int64_t K = weight.cols, R = path.a.rows;
  get_part(weight, {"", target.row_begin + begin, rows}, out);
  // B beside zeros for the other targets' rows of A: a term 0 * a leaves an accumulator as it is.
  std::vector<float> b(rows * target.r), wide(rows * R, 0.0f);
  get_part(target.b, {"", begin, rows}, b.data());
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t j = 0; j < target.r; ++j) wide[n * R + target.a_begin + j] = target.scaling * b[n * target.r + j];
  if (path.a.backend == Backend::kernels) {
    kernels::linear_backward_input(wide.data(), R, rows, R, path.a.value.const_data_ptr<float>(), K, out, K, /*go_on=*/true);
    return;
  }
  at::NoGradGuard no_grad;
  at::Tensor sum = at::from_blob(out, {rows, K}, at::kFloat);
  sum.add_(at::matmul(at::from_blob(wide.data(), {rows, R}, at::kFloat), path.a.value.to(at::kCPU, at::kFloat)));
}

// The root of the lane sum of squares (element i into lane i mod 16, then 8+8, 4+4, 2+2, 1+1).
float row_norm(const float* row, int64_t count) {
  float lanes[16] = {};
  for (int64_t k = 0; k < count; ++k) lanes[k % 16] += row[k] * row[k];
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return std::sqrt(lanes[0]);
}

}  // namespace

Parameter& resolve(const AdapterSet* adapters, Parameter& base) {
  if (!adapters) return base;
  const auto found = adapters->replacements.find(&base);
  return found == adapters->replacements.end() ? base : *found->second;
}

const at::Tensor& side_weight_norm(const Parameter& weight, const SidePath& path, const SideTarget& target) {
  if (target.weight_norm.defined()) return target.weight_norm;
  at::Tensor norm = at::empty({target.rows}, at::kFloat);
  std::vector<float> slice(std::min(kRowSlice, target.rows) * weight.cols);
  for (int64_t begin = 0; begin < target.rows; begin += kRowSlice) {
    const int64_t rows = std::min(kRowSlice, target.rows - begin);
    low_rank_sum(weight, path, target, begin, rows, slice.data());
    float* out = norm.mutable_data_ptr<float>() + begin;
    parallel_for(rows, 8, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) out[n] = row_norm(slice.data() + n * weight.cols, weight.cols);
    });
  }
  target.weight_norm = norm.to(target.magnitude.value.device());
  return target.weight_norm;
}

void invalidate(const AdapterSet& adapters) {
  for (const auto& [weight, path] : adapters.paths)
    for (const SideTarget& target : path->targets) target.weight_norm.reset();
}

void merged_rows(const Parameter& weight, const SidePath& path, const SideTarget& target, int64_t begin, int64_t rows, float* out) {
  check(begin >= 0 && rows >= 0 && begin + rows <= target.rows, "merged_rows: [{}, {}) of {}", begin, begin + rows, target.rows);
  low_rank_sum(weight, path, target, begin, rows, out);
  if (!target.magnitude.defined()) return;
  const at::Tensor scale = (target.magnitude.value.detach() / side_weight_norm(weight, path, target)).cpu();
  for (int64_t n = 0; n < rows; ++n) {
    const float factor = scale.const_data_ptr<float>()[begin + n];
    for (int64_t k = 0; k < weight.cols; ++k) out[n * weight.cols + k] *= factor;
  }
}

}  // namespace hone::ops
