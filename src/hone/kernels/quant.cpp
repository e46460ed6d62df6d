// The value tables of 4-bit weights and 8-bit states.
#include "hone/kernels/quant.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace hone::kernels {

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

}  // namespace

const float* quant_map(QuantType type) {
  static constexpr float nf4[16] = {-1.0f,
                                    -0.6961928009986877f,
                                    -0.5250730514526367f,
                                    -0.39491748809814453f,
                                    -0.28444138169288635f,
                                    -0.18477343022823334f,
                                    -0.09105003625154495f,
                                    0.0f,
                                    0.07958029955625534f,
                                    0.16093020141124725f,
                                    0.24611230194568634f,
                                    0.33791524171829224f,
                                    0.44070982933044434f,
                                    0.5626170039176941f,
                                    0.7229568362236023f,
                                    1.0f};
  // Sign, two bits of exponent, one of fraction, over 12; code 8 is a second +0.
  static constexpr float fp4[16] = {0.0f, 0.0625f / 12.0f,  8.0f / 12.0f,  1.0f,  4.0f / 12.0f,  0.5f,  2.0f / 12.0f,  0.25f,
                                    0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -0.5f, -2.0f / 12.0f, -0.25f};
  return type == QuantType::nf4 ? nf4 : fp4;
}

const float* dynamic_map(bool is_signed) {
  static const std::array<float, 256> with_sign = make_dynamic_map(true), without_sign = make_dynamic_map(false);
  return (is_signed ? with_sign : without_sign).data();
}

}  // namespace hone::kernels
