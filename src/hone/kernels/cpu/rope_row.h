#pragma once
// The rotary embedding of one row, in training and in decoding.
#include "hone/kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

HONE_INLINE V load_part(const float* p, int64_t left) { return left >= kLanes ? load(p) : load_n(p, left); }
HONE_INLINE void store_part(float* p, V a, int64_t left) {
  if (left >= kLanes)
    store(p, a);
  else
    store_n(p, a, left);
}

/// x (heads, d) in place, half-split order; cos and sin (d/2) of the row's position.
[[maybe_unused]] static void rope_row(float* x, int64_t heads, int64_t d, const float* cos, const float* sin, bool inverse) {
  const int64_t half = d / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const V cosine = load_part(cos + i, left);
    const V plain = load_part(sin + i, left);
    const V sine = inverse ? neg(plain) : plain;
    float* first = x + i;
    for (int64_t h = 0; h < heads; h++, first += d) {
      const V a = load_part(first, left), b = load_part(first + half, left);
      store_part(first, sub(mul(a, cosine), mul(b, sine)), left);
      store_part(first + half, add(mul(b, cosine), mul(a, sine)), left);
    }
  }
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
