#pragma once
// Sixteen float lanes on either instruction set: one __m512, or two __m256 with lane i of the pair at lane i of the __m512.
// Every operation is exactly rounded and lane-wise, so both give the same bits. Included only by kernels/cpu/*.cpp, which are compiled
// once per instruction set in a namespace of their own; nothing here has external linkage, hence no AVX-512 code can reach the baseline.
#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 reports the "undefined" operands inside its own intrinsics (GCC bug 105593); the warnings appear where they are inlined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#define HONE_INLINE [[gnu::always_inline]] static inline

namespace hone::kernels::HONE_ISA_NAMESPACE {

constexpr int64_t kLanes = 16;

#if defined(HONE_ISA_avx512)

struct V {
  __m512 v;
};
struct I {  // 16 int32
  __m512i v;
};
struct Mask {  // one bit a lane
  __mmask16 v;
};
struct D {  // 8 doubles
  __m512d v;
};

HONE_INLINE V zero() { return {_mm512_setzero_ps()}; }
HONE_INLINE V broadcast(float x) { return {_mm512_set1_ps(x)}; }
/// load and store need no alignment.
HONE_INLINE V load(const float* p) { return {_mm512_loadu_ps(p)}; }
HONE_INLINE void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
/// The first n lanes (0 <= n <= 16) are read or written; the others read as 0 and are never touched in memory.
HONE_INLINE V load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)}; }
HONE_INLINE void store_n(float* p, V a, int64_t n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }
HONE_INLINE V add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
HONE_INLINE V sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
HONE_INLINE V mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
HONE_INLINE V div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
/// a * b + c with one rounding; fnma is -(a * b) + c.
HONE_INLINE V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HONE_INLINE V fnma(V a, V b, V c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
/// max and min give b where either is NaN.
HONE_INLINE V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
HONE_INLINE V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
HONE_INLINE V sqrt(V a) { return {_mm512_sqrt_ps(a.v)}; }
HONE_INLINE V round_even(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
HONE_INLINE V abs(V a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
HONE_INLINE V neg(V a) { return {_mm512_xor_ps(_mm512_set1_ps(-0.0f), a.v)}; }
/// Comparisons are false for NaN (unordered() is true for it).
HONE_INLINE Mask lt(V a, V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
HONE_INLINE Mask le(V a, V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
HONE_INLINE Mask eq(V a, V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
HONE_INLINE Mask unordered(V a, V b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q)}; }
/// Lanes 0..n-1 (0 <= n <= 16).
HONE_INLINE Mask first(int64_t n) { return {static_cast<__mmask16>((1u << n) - 1)}; }
/// a where the mask is set, else b.
HONE_INLINE V select(Mask m, V a, V b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
/// Bit i = lane i.
HONE_INLINE uint32_t bits(Mask m) { return m.v; }

HONE_INLINE I broadcast_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
HONE_INLINE I load_int(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
HONE_INLINE void store_int(int32_t* p, I a) { _mm512_storeu_si512(p, a.v); }
HONE_INLINE I add(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
HONE_INLINE I sub(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
HONE_INLINE I bit_and(I a, I b) { return {_mm512_and_si512(a.v, b.v)}; }
HONE_INLINE I bit_or(I a, I b) { return {_mm512_or_si512(a.v, b.v)}; }
HONE_INLINE I bit_xor(I a, I b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int kBits>
HONE_INLINE I shift_left(I a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
HONE_INLINE I shift_right(I a) {  // logical
  return {_mm512_srli_epi32(a.v, kBits)};
}
/// to_int rounds to nearest even (INT32_MIN where out of range); as_int and as_float keep the bits.
HONE_INLINE I to_int(V a) { return {_mm512_cvt_roundps_epi32(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
HONE_INLINE V to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
HONE_INLINE I as_int(V a) { return {_mm512_castps_si512(a.v)}; }
HONE_INLINE V as_float(I a) { return {_mm512_castsi512_ps(a.v)}; }

HONE_INLINE __m256 low_half(V a) { return _mm512_castps512_ps256(a.v); }
HONE_INLINE __m256 high_half(V a) { return _mm512_extractf32x8_ps(a.v, 1); }

HONE_INLINE D zero_double() { return {_mm512_setzero_pd()}; }
/// Lanes 0..7 (low) or 8..15 (high) as doubles.
HONE_INLINE D low_double(V a) { return {_mm512_cvtps_pd(low_half(a))}; }
HONE_INLINE D high_double(V a) { return {_mm512_cvtps_pd(high_half(a))}; }
HONE_INLINE D add(D a, D b) { return {_mm512_add_pd(a.v, b.v)}; }
HONE_INLINE D mul(D a, D b) { return {_mm512_mul_pd(a.v, b.v)}; }
HONE_INLINE D fma(D a, D b, D c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
HONE_INLINE __m256d low_half(D a) { return _mm512_castpd512_pd256(a.v); }
HONE_INLINE __m256d high_half(D a) { return _mm512_extractf64x4_pd(a.v, 1); }

#else

struct V {
  __m256 lo, hi;
};
struct I {
  __m256i lo, hi;
};
struct Mask {  // all bits of a lane
  __m256 lo, hi;
};
struct D {
  __m256d lo, hi;
};

HONE_INLINE V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HONE_INLINE V broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HONE_INLINE V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HONE_INLINE void store(float* p, V a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
HONE_INLINE Mask first(int64_t n) {
  const __m256i count = _mm256_set1_epi32(static_cast<int>(n));
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)))};
}
HONE_INLINE V load_n(const float* p, int64_t n) {
  const Mask m = first(n);
  return {_mm256_maskload_ps(p, _mm256_castps_si256(m.lo)), _mm256_maskload_ps(p + 8, _mm256_castps_si256(m.hi))};
}
HONE_INLINE void store_n(float* p, V a, int64_t n) {
  const Mask m = first(n);
  _mm256_maskstore_ps(p, _mm256_castps_si256(m.lo), a.lo);
  _mm256_maskstore_ps(p + 8, _mm256_castps_si256(m.hi), a.hi);
}
HONE_INLINE V add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
HONE_INLINE V sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
HONE_INLINE V mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
HONE_INLINE V div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
HONE_INLINE V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
HONE_INLINE V fnma(V a, V b, V c) { return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)}; }
HONE_INLINE V max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
HONE_INLINE V min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
HONE_INLINE V sqrt(V a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
HONE_INLINE V round_even(V a) {
  return {_mm256_round_ps(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), _mm256_round_ps(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
HONE_INLINE V abs(V a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
HONE_INLINE V neg(V a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(sign, a.lo), _mm256_xor_ps(sign, a.hi)};
}
HONE_INLINE Mask lt(V a, V b) { return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)}; }
HONE_INLINE Mask le(V a, V b) { return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LE_OQ)}; }
HONE_INLINE Mask eq(V a, V b) { return {_mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ)}; }
HONE_INLINE Mask unordered(V a, V b) { return {_mm256_cmp_ps(a.lo, b.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, b.hi, _CMP_UNORD_Q)}; }
HONE_INLINE V select(Mask m, V a, V b) { return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)}; }
HONE_INLINE uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.lo)) | static_cast<uint32_t>(_mm256_movemask_ps(m.hi)) << 8; }

HONE_INLINE I broadcast_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
HONE_INLINE I load_int(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
HONE_INLINE void store_int(int32_t* p, I a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
HONE_INLINE I add(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
HONE_INLINE I sub(I a, I b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
HONE_INLINE I bit_and(I a, I b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
HONE_INLINE I bit_or(I a, I b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
HONE_INLINE I bit_xor(I a, I b) { return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)}; }
template <int kBits>
HONE_INLINE I shift_left(I a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
HONE_INLINE I shift_right(I a) {
  return {_mm256_srli_epi32(a.lo, kBits), _mm256_srli_epi32(a.hi, kBits)};
}
HONE_INLINE I to_int(V a) {
  const V r = round_even(a);
  return {_mm256_cvtps_epi32(r.lo), _mm256_cvtps_epi32(r.hi)};
}
HONE_INLINE V to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
HONE_INLINE I as_int(V a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
HONE_INLINE V as_float(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }

HONE_INLINE __m256 low_half(V a) { return a.lo; }
HONE_INLINE __m256 high_half(V a) { return a.hi; }

HONE_INLINE D zero_double() { return {_mm256_setzero_pd(), _mm256_setzero_pd()}; }
HONE_INLINE D low_double(V a) { return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.lo)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.lo, 1))}; }
HONE_INLINE D high_double(V a) { return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.hi)), _mm256_cvtps_pd(_mm256_extractf128_ps(a.hi, 1))}; }
HONE_INLINE D add(D a, D b) { return {_mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi)}; }
HONE_INLINE D mul(D a, D b) { return {_mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi)}; }
HONE_INLINE D fma(D a, D b, D c) { return {_mm256_fmadd_pd(a.lo, b.lo, c.lo), _mm256_fmadd_pd(a.hi, b.hi, c.hi)}; }
HONE_INLINE __m256d low_half(D a) { return a.lo; }
HONE_INLINE __m256d high_half(D a) { return a.hi; }

#endif

/// Folds the lanes 8+8, 4+4, 2+2, 1+1: the tree of every "lane sum".
HONE_INLINE float fold_add(V a) {
  const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
/// The largest lane (a NaN lane may be lost: test for NaN apart).
HONE_INLINE float fold_max(V a) {
  const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
/// Folds 8 doubles 4+4, 2+2, 1+1.
HONE_INLINE double fold_add(D a) {
  const __m256d four = _mm256_add_pd(low_half(a), high_half(a));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
