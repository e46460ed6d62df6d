#include "hone/model/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "hone/base/error.h"

namespace hone::model {
namespace {

constexpr int64_t kBlock = 32;  // elements of a quantised block of GGUF

struct Format {
  std::string_view name;
  int64_t block_elements, block_bytes;
};
// Bytes: Q8_0 = f16 scale + 32 codes; Q4_0 = f16 scale + 16; Q4_1 = f16 scale + f16 minimum + 16.
constexpr Format kFormats[] = {{"F32", 1, 4},        {"F16", 1, 2},        {"BF16", 1, 2}, {"Q8_0", kBlock, 34},
                               {"Q4_0", kBlock, 18}, {"Q4_1", kBlock, 20}, {"U8", 1, 1}};

uint16_t load_u16(const std::byte* in) {
  uint16_t bits;
  std::memcpy(&bits, in, 2);
  return bits;
}

void q8_0_block(const std::byte* in, float* out) {
  const float scale = f16_to_float(load_u16(in));
  int8_t codes[kBlock];
  std::memcpy(codes, in + 2, sizeof codes);
  for (int i = 0; i < kBlock; ++i) out[i] = static_cast<float>(codes[i]) * scale;
}

// The low halves of the 16 bytes are elements 0..15, the high halves 16..31.
void q4_0_block(const std::byte* in, float* out) {
  const float scale = f16_to_float(load_u16(in));
  uint8_t codes[kBlock / 2];
  std::memcpy(codes, in + 2, sizeof codes);
  for (int i = 0; i < kBlock / 2; ++i) out[i] = scale * static_cast<float>((codes[i] & 15) - 8);
  for (int i = 0; i < kBlock / 2; ++i) out[i + kBlock / 2] = scale * static_cast<float>((codes[i] >> 4) - 8);
}

void q4_1_block(const std::byte* in, float* out) {
  const float scale = f16_to_float(load_u16(in)), minimum = f16_to_float(load_u16(in + 2));
  uint8_t codes[kBlock / 2];
  std::memcpy(codes, in + 4, sizeof codes);
  for (int i = 0; i < kBlock / 2; ++i) out[i] = scale * static_cast<float>(codes[i] & 15) + minimum;
  for (int i = 0; i < kBlock / 2; ++i) out[i + kBlock / 2] = scale * static_cast<float>(codes[i] >> 4) + minimum;
}

}  // namespace

void take_apart(DType dtype, const std::byte* blocks, int64_t block_count, uint8_t* codes, float* scales, float* minimums) {
  check(dtype == DType::q4_0 || dtype == DType::q4_1, "take_apart: blocks of {}", dtype_name(dtype));
  const int64_t head = dtype == DType::q4_1 ? 4 : 2;
  for (int64_t i = 0; i < block_count; ++i, blocks += block_bytes(dtype), codes += kBlock / 2) {
    scales[i] = f16_to_float(load_u16(blocks));
    if (dtype == DType::q4_1) minimums[i] = f16_to_float(load_u16(blocks + 2));
    const auto code = [&](int64_t j) { return static_cast<unsigned>(blocks[head + j % (kBlock / 2)]) >> (j < kBlock / 2 ? 0 : 4) & 15u; };
    for (int64_t j = 0; j < kBlock; j += 2) codes[j / 2] = static_cast<uint8_t>(code(j) << 4 | code(j + 1));
  }
}

std::string_view dtype_name(DType dtype) { return kFormats[static_cast<int>(dtype)].name; }
int64_t block_elements(DType dtype) { return kFormats[static_cast<int>(dtype)].block_elements; }
int64_t block_bytes(DType dtype) { return kFormats[static_cast<int>(dtype)].block_bytes; }

float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 31u, fraction = bits & 1023u;
  if (exponent == 0) {  // zero and subnormal: fraction * 2^-24, a normal float32, whatever MXCSR says about denormals
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x47800000u) return sign | 0x7c00u;  // 65536 and above, infinity
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  if (exponent < -25) return sign;  // under half of the least subnormal (2^-25 itself ties to even: 0)
  // The 24-bit significand is shifted so that what remains counts units of the result's last place; carries run into the exponent.
  const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
  const int shift = exponent < -14 ? -exponent - 1 : 13;
  const uint32_t kept = significand >> shift, rest = significand & ((1u << shift) - 1), half = 1u << (shift - 1);
  const uint32_t rounded = kept + ((rest > half || (rest == half && (kept & 1u))) ? 1u : 0u);
  const uint32_t base = exponent < -14 ? 0u : static_cast<uint32_t>(exponent + 14) << 10;  // the implicit bit adds the missing 1
  return static_cast<uint16_t>(sign | (base + rounded));
}

void to_float32(DType dtype, const std::byte* in, int64_t count, float* out) {
  const int64_t block = block_elements(dtype), bytes = block_bytes(dtype);
  check(count % block == 0, "to_float32: {} elements are not whole blocks of {} {}", count, block, dtype_name(dtype));
  switch (dtype) {
    case DType::f32:
      if (count != 0) std::memcpy(out, in, static_cast<size_t>(count) * 4);
      return;
    case DType::f16:
      for (int64_t i = 0; i < count; ++i) out[i] = f16_to_float(load_u16(in + 2 * i));
      return;
    case DType::bf16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(load_u16(in + 2 * i));
      return;
    case DType::q8_0:
      for (int64_t i = 0; i < count / block; ++i) q8_0_block(in + i * bytes, out + i * block);
      return;
    case DType::q4_0:
      for (int64_t i = 0; i < count / block; ++i) q4_0_block(in + i * bytes, out + i * block);
      return;
    case DType::q4_1:
      for (int64_t i = 0; i < count / block; ++i) q4_1_block(in + i * bytes, out + i * block);
      return;
    case DType::u8:
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(in[i]);
      return;
  }
  check(false, "to_float32: dtype {} is not known", static_cast<int>(dtype));
}

namespace {

bool to_bytes(const float* in, int64_t count, std::byte* out) {
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) {
    const bool in_range = in[i] >= 0.0f && in[i] <= 255.0f;  // false for NaN
    const auto code = static_cast<uint8_t>(in_range ? in[i] : 0.0f);
    fits = fits && in_range && static_cast<float>(code) == in[i];
    out[i] = std::byte{code};
  }
  return fits;
}

}  // namespace

bool from_float32(DType dtype, const float* in, int64_t count, std::byte* out) {
  if (dtype == DType::f32) {
    if (count != 0) std::memcpy(out, in, static_cast<size_t>(count) * 4);
    return true;
  }
  if (dtype == DType::u8) return to_bytes(in, count, out);
  check(dtype == DType::bf16 || dtype == DType::f16, "from_float32: {} is not written", dtype_name(dtype));
  const uint16_t infinity = dtype == DType::bf16 ? 0x7f80u : 0x7c00u;
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = dtype == DType::bf16 ? float_to_bf16(in[i]) : float_to_f16(in[i]);
    fits = fits && !((bits & 0x7fffu) == infinity && std::isfinite(in[i]));
    std::memcpy(out + 2 * i, &bits, 2);
  }
  return fits;
}

}  // namespace hone::model
