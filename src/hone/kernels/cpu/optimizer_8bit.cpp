// AdamW whose moments are 8-bit codes with an absmax for every 256 elements (arXiv:2110.02861), in the arithmetic of bitsandbytes 0.50's CPU
// backend: the update uses the moments before they are quantised again.
#include <cfloat>

#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/simd.h"
#include "hone/kernels/dynamic_codes.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/optimizer_8bit.inc"

namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kBlocksPerTask = 64;

struct Constants {
  V decay, grad_scale, beta1, rate1, beta2, rate2, sqrt_bias2, eps, step;
};

HONE_INLINE V scalar(double x) { return broadcast(static_cast<float>(x)); }

/// The moments of one block in float32; what lies behind its end is 0.
struct Moments {
  alignas(64) float first[kBlock];
  alignas(64) float second[kBlock];
};

void look_up(const float* map, const uint8_t* codes, int64_t n, float* values) {
  for (int64_t i = 0; i < n; i++) values[i] = map[codes[i]];
  for (int64_t i = n; i < kBlock; i++) values[i] = 0.0f;
}

/// Codes of n values, and their absmax. What is smaller than any normal number counts as 0 (denormals are flushed anyway).
float quantize(const float* values, int64_t n, float absmax, const uint8_t* table, uint8_t* codes) {
  if (absmax < FLT_MIN) {
    for (int64_t i = 0; i < n; i++) codes[i] = 0;
    return 0.0f;
  }
  alignas(64) int32_t places[kBlock];
  const V inverse = broadcast(1.0f / absmax), one = broadcast(1.0f), half = broadcast(0.5f), last = broadcast(kDynamicGrid - 1);
  for (int64_t i = 0; i < n; i += kLanes) {
    // max gives its second operand for NaN, so that every place is inside the table
    const V x = min(max(mul(load(values + i), inverse), neg(one)), one);
    const V place = add(mul(mul(add(x, one), half), last), half);
    const V rounded = round_even(place);
    store_int(places + i, to_int(select(lt(place, rounded), sub(rounded, one), rounded)));
  }
  for (int64_t i = 0; i < n; i++) codes[i] = table[places[i]];
  return absmax;
}

/// Sixteen elements: moments in place, parameters returned. The order and the rounding of torch's mul_, add_, addcmul_ and addcdiv_.
HONE_INLINE V adamw(const Constants& c, V p, V grad, V* first, V* second) {
  const V g = mul(grad, c.grad_scale);
  *first = fma(g, c.rate1, mul(*first, c.beta1));
  *second = fma(mul(c.rate2, g), g, mul(*second, c.beta2));
  const V denominator = add(div(sqrt(*second), c.sqrt_bias2), c.eps);
  return sub(mul(p, c.decay), div(mul(c.step, *first), denominator));
}

/// The step of one block of n <= 256 elements, in float32; returns what the absmax of the two moments are. A moment that is not finite makes
/// both NaN, so that it stays visible instead of becoming the code of an ordinary number.
struct Absmax {
  float first, second;
};
Absmax step_block(const Constants& c, float* p, const float* grad, float first_absmax, float second_absmax, int64_t n, Moments& moments) {
  const V first_scale = broadcast(first_absmax), second_scale = broadcast(second_absmax);
  V first_most = zero(), second_most = zero(), invalid = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const bool whole = n - i >= kLanes;
    V first = mul(load(moments.first + i), first_scale), second = mul(load(moments.second + i), second_scale);
    const V value = whole ? load(p + i) : load_n(p + i, n - i);
    const V updated = adamw(c, value, whole ? load(grad + i) : load_n(grad + i, n - i), &first, &second);
    if (whole)
      store(p + i, updated);
    else
      store_n(p + i, updated, n - i);
    store(moments.first + i, first);
    store(moments.second + i, second);
    first_most = max(abs(first), first_most);
    second_most = max(abs(second), second_most);
    invalid = add(invalid, add(sub(first, first), sub(second, second)));  // x - x is NaN unless x is finite
  }
  if (bits(unordered(invalid, invalid))) return {__builtin_nanf(""), __builtin_nanf("")};
  return {fold_max(first_most), fold_max(second_most)};
}

}  // namespace

void adamw_8bit_step(float* p, const float* grad, uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, int64_t count, const AdamwScalars& s,
                     const DynamicTable& first, const DynamicTable& second) {
  parallel((count + kBlock - 1) / kBlock, kBlocksPerTask, [=, &s, &first, &second](int64_t begin, int64_t end) {
    const Constants constants = {scalar(1 - s.lr * s.weight_decay),
                                 scalar(s.grad_scale),
                                 scalar(s.beta1),
                                 scalar(1 - s.beta1),
                                 scalar(s.beta2),
                                 scalar(1 - s.beta2),
                                 scalar(s.sqrt_bias2),
                                 scalar(s.eps),
                                 scalar(s.lr / s.bias1)};
    Moments moments;
    for (int64_t b = begin; b < end; b++) {
      const int64_t at = b * kBlock, n = count - at < kBlock ? count - at : kBlock;
      look_up(first.map, m + at, n, moments.first);
      look_up(second.map, v + at, n, moments.second);
      const Absmax absmax = step_block(constants, p + at, grad + at, m_absmax[b], v_absmax[b], n, moments);
      m_absmax[b] = quantize(moments.first, n, absmax.first, first.codes, m + at);
      v_absmax[b] = quantize(moments.second, n, absmax.second, second.codes, v + at);
    }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
