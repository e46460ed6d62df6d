#pragma once
// exp and log of sixteen float32 lanes (and the 64-bit products that Philox needs): polynomials evaluated by the same fused operations on either
// instruction set. The coefficients are minimax fits (Remez exchange on the relative error), rounded to float32.
#include "hone/kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

/// Within 1.1 units in the last place. Below -87.3 the result is 0 (never a denormal), above 88.72283 infinity; NaN gives NaN.
HONE_INLINE V exp(V x) {
  // x = n ln 2 + r, |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 P(r).
  const V n = round_even(mul(x, broadcast(0x1.715476p+0f)));
  V r = fnma(n, broadcast(0x1.62e43p-1f), x);
  r = fnma(n, broadcast(-0x1.05c610p-29f), r);
  V p = broadcast(0x1.6db4eap-10f);
  p = fma(p, r, broadcast(0x1.123bdep-7f));
  p = fma(p, r, broadcast(0x1.55545ep-5f));
  p = fma(p, r, broadcast(0x1.55548ep-3f));
  p = fma(p, r, broadcast(0x1p-1f));
  p = add(fma(mul(r, r), p, r), broadcast(1.0f));
  // 2^n goes into the exponent bits; within the bounds below the sum stays a normal number.
  V y = as_float(add(as_int(p), shift_left<23>(to_int(n))));
  y = select(lt(x, broadcast(-87.3f)), zero(), y);
  return select(lt(broadcast(0x1.62e42ep+6f), x), broadcast(__builtin_inff()), y);
}

/// For finite normal x > 0 only. Within 1 unit in the last place, also where x is near 1.
HONE_INLINE V log(V x) {
  // x = 2^k m with m in sqrt(1/2)..sqrt(2); f = m - 1; log m = f - f^2/2 + f^3 Q(f).
  constexpr int32_t kOne = 0x3f800000, kRootHalf = 0x3f3504f3;
  const I shifted = add(as_int(x), broadcast_int(kOne - kRootHalf));
  const V k = to_float(sub(shift_right<23>(shifted), broadcast_int(127)));
  const V f = sub(as_float(add(bit_and(shifted, broadcast_int(0x007fffff)), broadcast_int(kRootHalf))), broadcast(1.0f));
  V q = broadcast(-0x1.38b590p-4f);
  q = fma(q, f, broadcast(0x1.055b6cp-3f));
  q = fma(q, f, broadcast(-0x1.0d8540p-3f));
  q = fma(q, f, broadcast(0x1.22da1cp-3f));
  q = fma(q, f, broadcast(-0x1.547244p-3f));
  q = fma(q, f, broadcast(0x1.99a008p-3f));
  q = fma(q, f, broadcast(-0x1.000226p-2f));
  q = fma(q, f, broadcast(0x1.555554p-2f));
  const V square = mul(f, f);
  V small = fma(k, broadcast(0x1.7f7d1cp-20f), mul(mul(square, f), q));
  small = fma(square, broadcast(-0.5f), small);
  return fma(k, broadcast(0x1.62e4p-1f), add(f, small));
}

/// The 64-bit products of 16 unsigned lanes and `factor`: their high and low words.
struct Wide {
  I high, low;
};
#if defined(HONE_ISA_avx512)
HONE_INLINE Wide multiply_wide(I a, uint32_t factor) {
  constexpr __mmask16 kOdd = 0xaaaa;
  const __m512i m = _mm512_set1_epi32(static_cast<int32_t>(factor));
  const __m512i even = _mm512_mul_epu32(a.v, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), m);
  return {{_mm512_mask_blend_epi32(kOdd, _mm512_srli_epi64(even, 32), odd)}, {_mm512_mask_blend_epi32(kOdd, even, _mm512_slli_epi64(odd, 32))}};
}
#else
HONE_INLINE void multiply_wide(__m256i a, __m256i m, __m256i* high, __m256i* low) {
  const __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
HONE_INLINE Wide multiply_wide(I a, uint32_t factor) {
  const __m256i m = _mm256_set1_epi32(static_cast<int32_t>(factor));
  Wide product;
  multiply_wide(a.lo, m, &product.high.lo, &product.low.lo);
  multiply_wide(a.hi, m, &product.high.hi, &product.low.hi);
  return product;
}
#endif

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
