// Rotary tables, and the run-time choice of the instruction set for norm, rope and swiglu.
#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/pointwise.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/pointwise.inc"
}

void rope_table(int64_t positions, int64_t d, double theta, float* cos, float* sin) {
  check(d > 0 && d % 2 == 0 && theta > 0, "rope_table: head size {} must be even and above 0, theta {} above 0", d, theta);
  const int64_t half = d / 2;
  parallel_for(half, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      // Each step rounded to float32, as torch does it: exponent, power, quotient, angle.
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
      const float inv_freq = 1.0f / static_cast<float>(exact_pow(static_cast<float>(theta), exponent));
      for (int64_t position = 0; position < positions; position++) {
        double s, c;
        exact_sincos(static_cast<float>(position) * inv_freq, &s, &c);
        cos[position * half + i] = static_cast<float>(c);
        sin[position * half + i] = static_cast<float>(s);
      }
    }
  });
}

void rms_norm_forward(const float* x, int64_t T, int64_t D, const float* w, float eps, float* y, float* rstd) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::rms_norm_forward : avx2::rms_norm_forward;
  kernel(x, T, D, w, eps, y, rstd);
}

void rms_norm_backward(const float* dy, const float* x, const float* rstd, const float* w, int64_t T, int64_t D, float* dx, float* dw) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::rms_norm_backward : avx2::rms_norm_backward;
  kernel(dy, x, rstd, w, T, D, dx, dw);
}

void rope_apply(float* x, int64_t ldx, int64_t T, int64_t heads, int64_t d, const int64_t* positions, const float* cos, const float* sin,
                bool inverse) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::rope_apply : avx2::rope_apply;
  kernel(x, ldx, T, heads, d, positions, cos, sin, inverse);
}

void swiglu_forward(const float* gate_up, int64_t T, int64_t F, float* y) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::swiglu_forward : avx2::swiglu_forward;
  kernel(gate_up, T, F, y);
}

void swiglu_backward(const float* dy, const float* gate_up, int64_t T, int64_t F, float* dgate_up) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::swiglu_backward : avx2::swiglu_backward;
  kernel(dy, gate_up, T, F, dgate_up);
}

}  // namespace hone::kernels
