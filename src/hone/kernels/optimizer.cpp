// Run-time choice of the instruction set for the optimizer.
#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/optimizer.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/optimizer.inc"
}

void adamw_step(float* p, const float* grad, float* m, float* v, int64_t count, const AdamwScalars& scalars) {
  check(scalars.bias1 > 0 && scalars.sqrt_bias2 > 0, "adamw_step: bias corrections {} and {} must be above 0", scalars.bias1, scalars.sqrt_bias2);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::adamw_step : avx2::adamw_step;
  kernel(p, grad, m, v, count, scalars);
}

double sum_squares(const float* x, int64_t count) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::sum_squares : avx2::sum_squares;
  return kernel(x, count);
}

bool all_finite(const float* x, int64_t count) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::all_finite : avx2::all_finite;
  return kernel(x, count);
}

}  // namespace hone::kernels
