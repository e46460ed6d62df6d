#pragma once
// Sixteen values looked up by the low four bits of each lane, and what else quantised weights need beyond simd.h.
#include "hone/kernels/cpu/gemm.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

#if defined(HONE_ISA_avx512)

struct Table16 {
  __m512 v;
};
HONE_INLINE Table16 load_table(const float* values) { return {_mm512_loadu_ps(values)}; }
/// values[index & 15]
HONE_INLINE V look_up(Table16 table, I index) { return {_mm512_permutexvar_ps(index.v, table.v)}; }
/// values[index & 7]; tables of at most 8
HONE_INLINE V look_up_8(Table16 table, I index) { return look_up(table, index); }
/// 2 * index, and 1 more where the mask is not set.
HONE_INLINE I descend(I index, Mask stay) {
  const __m512i twice = _mm512_add_epi32(index.v, index.v);
  return {_mm512_mask_add_epi32(twice, static_cast<__mmask16>(~stay.v), twice, _mm512_set1_epi32(1))};
}
HONE_INLINE I truncate(V a) { return {_mm512_cvttps_epi32(a.v)}; }
HONE_INLINE I larger_int(I a, I b) { return {_mm512_max_epi32(a.v, b.v)}; }
HONE_INLINE I load_bytes(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
HONE_INLINE I load_signed_bytes(const uint8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }

#else

struct Table16 {
  __m256 lo, hi;
};
HONE_INLINE Table16 load_table(const float* values) { return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}; }
HONE_INLINE __m256 look_up_half(Table16 table, __m256i index) {
  const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // the sign is bit 3 of the index
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.lo, index), _mm256_permutevar8x32_ps(table.hi, index), upper);
}
HONE_INLINE V look_up(Table16 table, I index) { return {look_up_half(table, index.lo), look_up_half(table, index.hi)}; }
HONE_INLINE V look_up_8(Table16 table, I index) {
  return {_mm256_permutevar8x32_ps(table.lo, index.lo), _mm256_permutevar8x32_ps(table.lo, index.hi)};
}
HONE_INLINE __m256i descend_half(__m256i index, __m256 stay) {  // the mask is -1 where it is set
  return _mm256_add_epi32(_mm256_add_epi32(index, index), _mm256_add_epi32(_mm256_castps_si256(stay), _mm256_set1_epi32(1)));
}
HONE_INLINE I descend(I index, Mask stay) { return {descend_half(index.lo, stay.lo), descend_half(index.hi, stay.hi)}; }
HONE_INLINE I truncate(V a) { return {_mm256_cvttps_epi32(a.lo), _mm256_cvttps_epi32(a.hi)}; }
HONE_INLINE I larger_int(I a, I b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
HONE_INLINE I load_bytes(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}
HONE_INLINE I load_signed_bytes(const uint8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + 8)))};
}

#endif

/// A weight (N, K) in panels as quant.h lays them out; run = gcd(K, block) steps share their scales (and minimums).
struct QuantWeight {
  const uint8_t* codes = nullptr;  // null: the weight is dense
  const float* scales = nullptr;
  const float* minimums = nullptr;  // null: none is added
  const float* map = nullptr;       // 16 values; null: the codes are signed bytes
  int64_t run = 1;
};
constexpr int64_t kStepBytes = kPanelWidth / 2;  // of 4-bit codes

enum class Codes { nibbles, nibbles_minimums, bytes };
HONE_INLINE Codes codes_of(const QuantWeight& w) { return !w.map ? Codes::bytes : w.minimums ? Codes::nibbles_minimums : Codes::nibbles; }
constexpr int64_t step_bytes(Codes kind) { return kind == Codes::bytes ? kPanelWidth : kStepBytes; }

/// The 32 values of one step before their scales.
struct Step {
  V low, high;
};
template <Codes kKind>
HONE_INLINE Step load_step(Table16 table, const uint8_t* codes) {
  if constexpr (kKind == Codes::bytes) {
    return {to_float(load_signed_bytes(codes)), to_float(load_signed_bytes(codes + kLanes))};
  } else {
    const I code = load_bytes(codes);
    return {look_up(table, code), look_up(table, shift_right<4>(code))};
  }
}
template <Codes kKind>
HONE_INLINE Table16 load_table_of(const QuantWeight& w) {
  if constexpr (kKind == Codes::bytes)
    return Table16();
  else
    return load_table(w.map);
}

template <Codes kKind>
static void dequantize_steps_of(const QuantWeight& w, int64_t K, int64_t panel, int64_t k0, int64_t depth, float* out) {
  constexpr bool kMinimums = kKind == Codes::nibbles_minimums;
  constexpr int64_t kBytes = step_bytes(kKind);
  const Table16 table = load_table_of<kKind>(w);
  const uint8_t* codes = w.codes + panel * K * kBytes;
  for (int64_t k = k0; k < k0 + depth;) {
    const int64_t end = smaller(k0 + depth, (k / w.run + 1) * w.run);
    const int64_t at = (panel * (K / w.run) + k / w.run) * kPanelWidth;
    const V low = load(w.scales + at), high = load(w.scales + at + kLanes);
    const V low_minimum = kMinimums ? load(w.minimums + at) : zero(), high_minimum = kMinimums ? load(w.minimums + at + kLanes) : zero();
    for (; k < end; k++, out += kPanelWidth) {
      __builtin_prefetch(codes + k * kBytes + 1024);
      const Step step = load_step<kKind>(table, codes + k * kBytes);
      const V first = mul(step.low, low), second = mul(step.high, high);
      store(out, kMinimums ? add(first, low_minimum) : first);
      store(out + kLanes, kMinimums ? add(second, high_minimum) : second);
    }
  }
}

/// Steps k0 .. k0 + depth of a panel as floats, 32 a step.
[[maybe_unused]] static void dequantize_steps(const QuantWeight& w, int64_t K, int64_t panel, int64_t k0, int64_t depth, float* out) {
  switch (codes_of(w)) {
    case Codes::nibbles:
      return dequantize_steps_of<Codes::nibbles>(w, K, panel, k0, depth, out);
    case Codes::nibbles_minimums:
      return dequantize_steps_of<Codes::nibbles_minimums>(w, K, panel, k0, depth, out);
    case Codes::bytes:
      return dequantize_steps_of<Codes::bytes>(w, K, panel, k0, depth, out);
  }
}

/// Denormals count for the life of the object, as they do in bitsandbytes (the pool's bodies run with them flushed to 0).
struct ScopedDenormals {
  HONE_INLINE unsigned with_denormals() {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before & ~0x8040u);
    return before;
  }
  const unsigned before = with_denormals();
  ~ScopedDenormals() { _mm_setcsr(before); }
};

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
