#pragma once
// From a value in [-1, 1] to its 8-bit code in the dynamic maps of quant.h, as bitsandbytes 0.50 finds it on a CPU: not the nearest of the
// 256 values but the one nearest to the value's place on a grid of 65,536, looked up in a table.
#include <cstdint>

namespace hone::kernels {

constexpr int64_t kDynamicGrid = 65536;

struct DynamicTable {
  const float* map;      // code -> value, 256
  const uint8_t* codes;  // place on the grid -> code, kDynamicGrid
};
/// The place of x is trunc((clamp(x, -1, 1) + 1) * 0.5f * 65535 + 0.5f), every operation rounded to float32 on its own. Zero has no place of
/// its own: it is kept as the value nearest to 2^-16.
const DynamicTable& dynamic_table(bool is_signed);

}  // namespace hone::kernels
