// The value tables of 4-bit weights and 8-bit states, and the run-time choice of the instruction set for the quantisers.
#include "hone/kernels/quant.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "hone/base/threads.h"
#include "hone/kernels/dynamic_codes.h"
#include "hone/kernels/quant_tables.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/quant.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/quant.inc"
}

namespace {

/// Element i of torch.linspace(0.1, 1, count) in float32: from the nearer end, each by one fused multiply-add.
float between(int i, int count) {
  const float low = 0.1f, high = 1.0f, step = (high - low) / static_cast<float>(count - 1);
  return i < count / 2 ? std::fma(step, static_cast<float>(i), low) : std::fma(-step, static_cast<float>(count - 1 - i), high);
}

/// bitsandbytes' create_dynamic_map: seven decades below 1, decade i (10^(i-6)) cut into 2^i fractions (unsigned: 2^(i+1)), and 0 and 1.
std::array<float, 256> make_dynamic_map(bool is_signed) {
  constexpr float decades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, 256> map{};
  size_t count = 0;
  for (int i = 0; i < 7; i++) {
    const int fractions = is_signed ? 1 << i : 2 << i;
    for (int j = 0; j < fractions; j++) {
      const float value = decades[i] * ((between(j, fractions + 1) + between(j + 1, fractions + 1)) / 2.0f);
      map[count++] = value;
      if (is_signed) map[count++] = -value;
    }
  }
  map[count++] = 0.0f;
  map[count++] = 1.0f;
  std::sort(map.begin(), map.end());
  return map;
}

// clang-format off
constexpr float kNf4[16] = {-1.0f,                 -0.6961928009986877f,  -0.5250730514526367f,  -0.39491748809814453f,
                            -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                            0.07958029955625534f,  0.16093020141124725f,  0.24611230194568634f,  0.33791524171829224f,
                            0.44070982933044434f,  0.5626170039176941f,   0.7229568362236023f,   1.0f};
/// A sign, two bits of exponent, one of fraction, over 12; code 8 is a second +0.
constexpr float kFp4[16] = {0.0f, 0.0625f / 12.0f,  8.0f / 12.0f,  1.0f,  4.0f / 12.0f,  0.5f,  2.0f / 12.0f,  0.25f,
                            0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -0.5f, -2.0f / 12.0f, -0.25f};
// clang-format on

constexpr float kQ40[16] = {-8.0f, -7.0f, -6.0f, -5.0f, -4.0f, -3.0f, -2.0f, -1.0f, 0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
constexpr float kQ41[16] = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f, 8.0f, 9.0f, 10.0f, 11.0f, 12.0f, 13.0f, 14.0f, 15.0f};

QuantTables make_tables(const float* map) {
  QuantTables t{};
  std::copy_n(map, 16, t.map);
  std::iota(t.order, t.order + 16, 0);
  // Code 0 ranks below code 8 of the same value, so that 0 gets code 0.
  std::stable_sort(t.order, t.order + 16, [&](int32_t a, int32_t b) { return map[a] < map[b]; });
  for (int i = 0; i < 15; i++) t.midpoints[i] = (map[t.order[i]] + map[t.order[i + 1]]) / 2.0f;
  for (int level = 0; level < 4; level++)
    for (int i = 0; i < 1 << level; i++) t.levels[level][i] = t.midpoints[(2 * i + 1) * (8 >> level) - 1];
  return t;
}

const QuantTables& quant_tables(QuantType type) {
  static const QuantTables nf4 = make_tables(kNf4), fp4 = make_tables(kFp4);
  return type == QuantType::nf4 ? nf4 : fp4;
}

struct DoubleDouble {  // high + low, unevaluated
  double high, low;
};
DoubleDouble two_sum(double a, double b) {
  const double sum = a + b, of_b = sum - a;
  return {sum, (a - (sum - of_b)) + (b - of_b)};
}

/// The correctly rounded mean: the sum has twice the digits of float64 (its error is far below anything that could decide a rounding but an
/// exact tie), and the quotient is rounded once, by way of a float64 rounded to odd.
float exact_mean(const float* x, int64_t count) {
  DoubleDouble sum{0, 0};
  for (int64_t i = 0; i < count; i++) {
    const DoubleDouble next = two_sum(sum.high, static_cast<double>(x[i]));
    sum = two_sum(next.high, next.low + sum.low);
  }
  const double n = static_cast<double>(count), quotient = sum.high / n;
  const double rest = std::fma(-quotient, n, sum.high) + sum.low;
  if (!(rest != 0) || !std::isfinite(quotient)) return static_cast<float>(quotient);
  uint64_t bits;
  std::memcpy(&bits, &quotient, sizeof(bits));
  return static_cast<float>(bits % 2 == 1 ? quotient : std::nextafter(quotient, rest > 0 ? HUGE_VAL : -HUGE_VAL));
}

/// The kernels of the active instruction set.
#define HONE_CHOOSE(name) (active_isa() == Isa::avx512 ? avx512::name : avx2::name)

}  // namespace

const float* quant_map(QuantType type) {
  alignas(64) static const std::array<float, 16> q4_0 = std::to_array(kQ40), q4_1 = std::to_array(kQ41);
  if (type == QuantType::int8) return nullptr;
  return type == QuantType::q4_0 ? q4_0.data() : type == QuantType::q4_1 ? q4_1.data() : quant_tables(type).map;
}

const float* dynamic_map(bool is_signed) {
  static const std::array<float, 256> with_sign = make_dynamic_map(true), without_sign = make_dynamic_map(false);
  return (is_signed ? with_sign : without_sign).data();
}

void quantize_4bit(const float* x, int64_t count, QuantType type, uint8_t* codes, float* absmax) {
  HONE_CHOOSE(quantize_4bit)(x, count, quant_tables(type), codes, absmax);
}

void dequantize_4bit(const uint8_t* codes, const float* absmax, int64_t count, QuantType type, float* x) {
  HONE_CHOOSE(dequantize_4bit)(codes, absmax, count, quant_map(type), x);
}

void quantize_int8(const float* x, int64_t count, uint8_t* codes, float* scales) {
  constexpr float kMost = 127.0f, kSmallest = 1e-30f;  // below, 127 / largest could be infinite
  constexpr float kRound = 12582912.0f;                // 1.5 * 2^23: what is added to it is rounded to an integer, to nearest even
  const int64_t blocks = (count + kQuantBlock - 1) / kQuantBlock;
  parallel_for(blocks, 256, [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      const int64_t first = b * kQuantBlock, last = std::min(count, first + kQuantBlock);
      float largest = 0;
      for (int64_t i = first; i < last; i++) largest = std::max(largest, std::fabs(x[i]));
      const bool zero = largest < kSmallest;
      const float inverse = zero ? 0.0f : kMost / largest;
      scales[b] = zero ? 0.0f : largest / kMost;
      for (int64_t i = first; i < last; i++)
        codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp((x[i] * inverse + kRound) - kRound, -kMost, kMost)));
    }
  });
}

void quantize_nested(const float* absmax, int64_t count, uint8_t* codes, float* nested_absmax, float* offset) {
  *offset = count == 0 ? 0.0f : exact_mean(absmax, count);
  quantize_nested_about(absmax, count, *offset, codes, nested_absmax);
}

void quantize_nested_about(const float* absmax, int64_t count, float offset, uint8_t* codes, float* nested_absmax) {
  HONE_CHOOSE(quantize_dynamic)(absmax, count, offset, dynamic_table(true).codes, codes, nested_absmax);
}

void dequantize_nested(const uint8_t* codes, const float* nested_absmax, float offset, int64_t count, float* absmax) {
  dequantize_nested(codes, nested_absmax, offset, dynamic_map(true), count, absmax);
}

void dequantize_nested(const uint8_t* codes, const float* nested_absmax, float offset, const float* map, int64_t count, float* absmax) {
  HONE_CHOOSE(dequantize_dynamic)(codes, nested_absmax, count, offset, map, absmax);
}

void pack_quant_panels(const uint8_t* codes, const float* absmax, int64_t row_begin, int64_t rows, int64_t K, uint8_t* panel_codes,
                       float* panel_scales, QuantType type) {
  if (K == 0) return;
  if (type == QuantType::int8)
    HONE_CHOOSE(pack_byte_codes)(codes, row_begin, rows, K, panel_codes);
  else
    HONE_CHOOSE(pack_quant_codes)(codes, row_begin, rows, K, panel_codes);
  HONE_CHOOSE(pack_quant_scales)(absmax, quant_block(type), row_begin, rows, K, quant_run(K, type), panel_scales);
}

void pack_quant_minimums(const float* minimums, int64_t row_begin, int64_t rows, int64_t K, QuantType type, float* panel_minimums) {
  if (K > 0) HONE_CHOOSE(pack_quant_scales)(minimums, quant_block(type), row_begin, rows, K, quant_run(K, type), panel_minimums);
}

void unpack_quant_panels(const QuantPanels& panels, int64_t row_begin, int64_t rows, int64_t K, float* w) {
  if (K == 0) return;
  HONE_CHOOSE(unpack_quant_panels)
  (panels.codes, panels.scales, panels.minimums, quant_map(panels.type), quant_run(K, panels.type), row_begin, rows, K, w);
}

#undef HONE_CHOOSE
}  // namespace hone::kernels
