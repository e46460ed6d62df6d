#include "hone/model/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "file_builders.h"
#include "hone/model/gguf.h"

namespace hone::model {
namespace {

bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

TEST(Dequantize, EveryHalfGoesToFloatAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_float(static_cast<uint16_t>(bits));
    const int exponent = static_cast<int>((bits >> 10) & 31u);
    const double fraction = bits & 1023u, sign = (bits & 0x8000u) ? -1.0 : 1.0;
    if (exponent == 31 && fraction != 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_GT(float_to_f16(value) & 0x3ffu, 0u) << bits;
      continue;
    }
    const double wanted = exponent == 31  ? sign * std::numeric_limits<double>::infinity()
                          : exponent == 0 ? sign * std::ldexp(fraction, -24)
                                          : sign * std::ldexp(1024.0 + fraction, exponent - 25);
    ASSERT_EQ(static_cast<double>(value), wanted) << bits;
    ASSERT_EQ(float_to_f16(value), bits);
  }
}

TEST(Dequantize, HalvesAreRoundedToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bffu; ++bits) {  // between each finite half and the next one
    const float low = f16_to_float(static_cast<uint16_t>(bits)), high = f16_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact in float32
    ASSERT_EQ(float_to_f16(middle), (bits & 1u) ? bits + 1 : bits) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, low)), bits) << bits;
    ASSERT_EQ(float_to_f16(std::nextafter(middle, high)), bits + 1) << bits;
  }
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bffu);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00u);
  EXPECT_EQ(float_to_f16(std::numeric_limits<float>::infinity()), 0x7c00u);
  EXPECT_EQ(float_to_f16(-1e-30f), 0x8000u);
}

TEST(Dequantize, Bfloat16IsRoundedToNearestEven) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(bf16_to_float(float_to_bf16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(float_to_bf16(value), bits);
    if (std::isinf(value)) continue;
    const uint32_t tie = (bits << 16) | 0x8000u;
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(tie)), static_cast<uint16_t>((bits & 1u) ? bits + 1 : bits));
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(tie - 1)), bits);
    ASSERT_EQ(float_to_bf16(std::bit_cast<float>(tie + 1)), static_cast<uint16_t>(bits + 1));
  }
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Dequantize, OverflowOfHalvesIsReported) {
  const float values[] = {1.0f, 70000.0f};
  std::byte out[4];
  EXPECT_FALSE(from_float32(DType::f16, values, 2, out));
  EXPECT_TRUE(from_float32(DType::bf16, values, 2, out));
  const float infinite[] = {std::numeric_limits<float>::infinity()};
  EXPECT_TRUE(from_float32(DType::f16, infinite, 1, out));
}

// The fixture holds, beside each tensor, what gguf-py's dequantize makes of it: equal to the bit.
TEST(Dequantize, AgreesWithGgufPyToTheBit) {
  const GgufFile file(fixture("quantised.gguf"));
  for (const char* name : {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"}) {
    const TensorView& stored = file.tensors().at(name);
    const TensorView& expected = file.tensors().at(std::string(name) + ".expected");
    EXPECT_EQ(dtype_name(stored.dtype), name);
    ASSERT_EQ(stored.shape, (std::vector<int64_t>{6, 64}));
    std::vector<float> got(384), wanted(384);
    to_float32(stored, got.data());
    to_float32(expected, wanted.data());
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_TRUE(same_bits(got[i], wanted[i])) << name << " " << i << ": " << got[i] << ", gguf-py " << wanted[i];
    // A range of rows gives the same values.
    std::vector<float> part(2 * 64);
    rows_to_float32(stored, 3, 5, part.data());
    for (size_t i = 0; i < part.size(); ++i) ASSERT_TRUE(same_bits(part[i], wanted[3 * 64 + i])) << name;
  }
}

}  // namespace
}  // namespace hone::model
