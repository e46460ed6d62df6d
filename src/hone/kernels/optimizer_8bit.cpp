// Run-time choice of the instruction set for 8-bit AdamW, and the tables that it looks its codes up in.
#include <array>
#include <cstring>

#include "hone/base/error.h"
#include "hone/kernels/dynamic_codes.h"
#include "hone/kernels/quant.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/optimizer_8bit.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/optimizer_8bit.inc"
}

namespace {

using Codes = std::array<uint8_t, kDynamicGrid>;

/// For every place of the grid the nearest value of the map, the lower one of two that are as near.
Codes make_codes(const float* map) {
  Codes codes{};
  size_t code = 0;
  for (size_t place = 0; place < codes.size(); place++) {
    const float value = -1.0f + (2.0f * static_cast<float>(place)) / static_cast<float>(kDynamicGrid - 1);
    while (code < 255 && 0.5f * (map[code] + map[code + 1]) < value) code++;
    codes[place] = static_cast<uint8_t>(code);
  }
  return codes;
}

}  // namespace

const DynamicTable& dynamic_table(bool is_signed) {
  static const Codes with_sign = make_codes(dynamic_map(true)), without_sign = make_codes(dynamic_map(false));
  static const DynamicTable tables[2] = {{dynamic_map(false), without_sign.data()}, {dynamic_map(true), with_sign.data()}};
  return tables[is_signed];
}

// A block with absmax 0 is zero whatever its codes; bitsandbytes begins so.
void adamw_8bit_init(uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, int64_t count) {
  if (count == 0) return;
  const size_t blocks = static_cast<size_t>((count + kNestedBlock - 1) / kNestedBlock);
  std::memset(m, 0, static_cast<size_t>(count));
  std::memset(v, 0, static_cast<size_t>(count));
  std::memset(m_absmax, 0, sizeof(float) * blocks);
  std::memset(v_absmax, 0, sizeof(float) * blocks);
}

void adamw_8bit_step(float* p, const float* grad, uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, int64_t count,
                     const AdamwScalars& scalars) {
  check(scalars.bias1 > 0 && scalars.sqrt_bias2 > 0, "adamw_8bit_step: bias corrections {} and {} must be above 0", scalars.bias1,
        scalars.sqrt_bias2);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::adamw_8bit_step : avx2::adamw_8bit_step;
  kernel(p, grad, m, m_absmax, v, v_absmax, count, scalars, dynamic_table(true), dynamic_table(false));
}

}  // namespace hone::kernels
