// AdamW, the gradient norm and the check for non-finite values.
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/simd.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/optimizer.inc"

namespace {

constexpr int64_t kElementsPerTask = 16384;
constexpr int64_t kBlock = 4096;

struct Adamw {
  V decay, grad_scale, rate1, beta2, rate2, sqrt_bias2, eps, step;
};

/// Sixteen elements. Multiplications and additions are rounded one by one, in the order of torch's lerp_, addcmul_ and addcdiv_.
struct State {
  V p, m, v;
};
HONE_INLINE State adamw(const Adamw& s, State x, V grad) {
  const V g = mul(grad, s.grad_scale);
  const V p = mul(x.p, s.decay);
  const V m = add(x.m, mul(s.rate1, sub(g, x.m)));
  const V v = add(mul(x.v, s.beta2), mul(mul(s.rate2, g), g));
  const V denominator = add(div(sqrt(v), s.sqrt_bias2), s.eps);
  return {sub(p, div(mul(s.step, m), denominator)), m, v};
}

HONE_INLINE V scalar(double x) { return broadcast(static_cast<float>(x)); }

double block_squares(const float* x, int64_t count) {
  D sum = zero_double();
  for (int64_t i = 0; i < count; i += kLanes) {
    const V value = count - i >= kLanes ? load(x + i) : load_n(x + i, count - i);
    const D low = low_double(value), high = high_double(value);
    sum = fma(low, low, sum);
    sum = fma(high, high, sum);
  }
  return fold_add(sum);
}

}  // namespace

void adamw_step(float* p, const float* grad, float* m, float* v, int64_t count, const AdamwScalars& s) {
  parallel(count, kElementsPerTask, [=, &s](int64_t begin, int64_t end) {
    const Adamw constants = {scalar(1 - s.lr * s.weight_decay),
                             scalar(s.grad_scale),
                             scalar(1 - s.beta1),
                             scalar(s.beta2),
                             scalar(1 - s.beta2),
                             scalar(s.sqrt_bias2),
                             scalar(s.eps),
                             scalar(s.lr / s.bias1)};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const State x = adamw(constants, {load(p + i), load(m + i), load(v + i)}, load(grad + i));
      store(p + i, x.p);
      store(m + i, x.m);
      store(v + i, x.v);
    }
    if (i == end) return;
    const int64_t n = end - i;
    const State x = adamw(constants, {load_n(p + i, n), load_n(m + i, n), load_n(v + i, n)}, load_n(grad + i, n));
    store_n(p + i, x.p, n);
    store_n(m + i, x.m, n);
    store_n(v + i, x.v, n);
  });
}

double sum_squares(const float* x, int64_t count) {
  // Partial sums of kAtOnce blocks at a time, so that the scratch is bounded; the additions are in block order all the same.
  constexpr int64_t kAtOnce = 4096;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  double* partial = reinterpret_cast<double*>(thread_scratch(3, 2 * (blocks < kAtOnce ? blocks : kAtOnce)));
  double total = 0;
  for (int64_t first = 0; first < blocks; first += kAtOnce) {
    const int64_t now = blocks - first < kAtOnce ? blocks - first : kAtOnce;
    parallel(now, kElementsPerTask / kBlock, [=](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b++) {
        const int64_t at = (first + b) * kBlock;
        partial[b] = block_squares(x + at, count - at < kBlock ? count - at : kBlock);
      }
    });
    for (int64_t b = 0; b < now; b++) total += partial[b];
  }
  return total;
}

bool all_finite(const float* x, int64_t count) {
  int found = 0;
  int* bad = &found;
  parallel(count, kElementsPerTask, [=](int64_t begin, int64_t end) {
    // x - x is 0 for a finite x, else NaN.
    V sum = zero();
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const V value = load(x + i);
      sum = add(sum, sub(value, value));
    }
    const V value = load_n(x + i, end - i);
    sum = add(sum, sub(value, value));
    if (bits(unordered(sum, sum))) __atomic_store_n(bad, 1, __ATOMIC_RELAXED);
  });
  return !found;
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
