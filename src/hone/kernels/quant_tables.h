#pragma once
// The tables that cpu/quant_blocks.cpp searches for 4-bit codes; plain data, made by quant.cpp for every instruction set.
#include <cstdint>

namespace hone::kernels {

/// A 4-bit code: its values, and what is needed to find the nearest one. The sorted values have 15 midpoints (in float32); the code of v is
/// order[number of midpoints below v].
struct QuantTables {
  alignas(64) float map[16];
  alignas(64) float levels[4][16];  // the midpoints as a binary search tree: 1, 2, 4, 8 of them
  alignas(64) int32_t order[16];    // rank -> code
  float midpoints[15];              // ascending
};

}  // namespace hone::kernels
