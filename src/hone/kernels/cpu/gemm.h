#pragma once
// The inner loop of every matrix product: a tile of rows x vectors of accumulators in registers, each one chain of fused multiply-adds over
// k in ascending order. A chain is cut only by storing the accumulator and loading it again, so no blocking can change a bit.
//
// Registers decide the tile: AVX-512 has 32, 14 rows x 2 vectors = 28 accumulators + 2 of B + 1 broadcast; AVX2 has 16, 6 rows x 1 V (a pair)
// = 12 + 2 + 1. Two FMA ports with a latency of 4 need at least 8 chains in flight: tiles of few rows take more vectors.
#include "hone/kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

constexpr int64_t kPanelWidth = 32;
constexpr int64_t kPanelVectors = kPanelWidth / kLanes;
#if defined(HONE_ISA_avx512)
constexpr int kTileRows = 14;
constexpr int kTileVectors = 2;
constexpr int kChains = 8;  // in units of V
#else
constexpr int kTileRows = 6;
constexpr int kTileVectors = 1;
constexpr int kChains = 4;
#endif

/// Part i of [0, count) cut into `parts` parts that differ by at most one.
struct Range {
  int64_t begin, end;
};
HONE_INLINE Range part_of(int64_t count, int64_t parts, int64_t i) { return {count * i / parts, count * (i + 1) / parts}; }
HONE_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
HONE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
HONE_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/// Where element (row i, step k) of the left operand stands: a[i * kRowStride + k], or a[k * 16 + i].
enum class Left { rows, steps };
constexpr int64_t kDepth = 576;              // most steps of a tile with Left::rows: 14 rows of them fill two thirds of a 48 KiB L1
constexpr int64_t kStepsAhead = 32;          // prefetch distance of the right operand: 4 KiB, the hardware stops at a page's end
constexpr int64_t kRowStride = kDepth + 16;  // not a multiple of 4 KiB, or all rows would share a few L1 sets

struct Tile {
  const float* a;
  const float* b;        // first vector of the right operand, step stride 32
  int64_t panel_stride;  // floats from a panel to the next
  int64_t depth;         // steps
  float* c;
  int64_t ldc;
  float* next_c;      // C of the next tile, for prefetching only
  bool resume;        // go on from c, else from 0
  const float* bias;  // added after the last step, or null
};

template <Left kLeft, int kRows, int kVectors>
static void run_tile(const Tile& t) {
  // The lines of C that are needed next, so that neither loading nor storing them waits for a far cache.
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) __builtin_prefetch((t.resume ? t.next_c : t.c) + i * t.ldc + j * kLanes, 1);
  V acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) acc[i][j] = t.resume ? load(t.c + i * t.ldc + j * kLanes) : zero();
  const float* a = t.a;
  const float* b = t.b;
  for (int64_t k = 0; k < t.depth; k++) {
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) __builtin_prefetch(b + kStepsAhead * kPanelWidth + (j / 2) * t.panel_stride + (j % 2) * kLanes);
    if (kLeft == Left::steps) __builtin_prefetch(a + kStepsAhead / 2 * kLanes);
    V w[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) w[j] = load(b + (j / 2) * t.panel_stride + (j % 2) * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V x = broadcast(kLeft == Left::rows ? a[i * kRowStride] : a[i]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
    a += kLeft == Left::rows ? 1 : kLanes;
    b += kPanelWidth;
  }
  if (t.bias)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) {
      const V bias = load(t.bias + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; i++) acc[i][j] = add(acc[i][j], bias);
    }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) store(t.c + i * t.ldc + j * kLanes, acc[i][j]);
}

/// Vectors that a tile of `rows` rows takes where there are enough columns.
constexpr int wide_vectors(int rows) {
  int vectors = kTileVectors;
  while (vectors * rows < kChains) vectors *= 2;
  return vectors;
}

struct TileKernels {
  void (*narrow)(const Tile&);  // kTileVectors
  void (*wide)(const Tile&);    // wide_vectors(rows)
};
template <Left kLeft, int kRows>
constexpr TileKernels tile_kernels() {
  return {run_tile<kLeft, kRows, kTileVectors>, run_tile<kLeft, kRows, wide_vectors(kRows)>};
}
/// Entry r - 1 serves tiles of r rows.
template <Left kLeft>
constexpr TileKernels kTileKernels[] = {tile_kernels<kLeft, 1>(),  tile_kernels<kLeft, 2>(),  tile_kernels<kLeft, 3>(),
                                        tile_kernels<kLeft, 4>(),  tile_kernels<kLeft, 5>(),  tile_kernels<kLeft, 6>(),
#if defined(HONE_ISA_avx512)
                                        tile_kernels<kLeft, 7>(),  tile_kernels<kLeft, 8>(),  tile_kernels<kLeft, 9>(),
                                        tile_kernels<kLeft, 10>(), tile_kernels<kLeft, 11>(), tile_kernels<kLeft, 12>(),
                                        tile_kernels<kLeft, 13>(), tile_kernels<kLeft, 14>()
#endif
};

/// Memory that a later strip will read: `rows` rows of `floats` floats. A strip prefetches it piece by piece between its tiles.
struct Ahead {
  const float* from = nullptr;
  int64_t stride = 0, rows = 0, floats = 0;
};
HONE_INLINE void prefetch_part(const Ahead& ahead, int64_t parts, int64_t i) {
  const Range range = part_of(ahead.rows, parts, i);
  for (int64_t row = range.begin; row < range.end; row++)
    for (int64_t k = 0; k < ahead.floats; k += kLanes) __builtin_prefetch(ahead.from + row * ahead.stride + k, 0, 2);
}

/// One strip of C: `rows` (at most kTileRows) rows by `columns` columns from a panel's edge on. t.b and t.c stand at the first column.
/// Columns past `columns` of the last panel are computed in a buffer and dropped.
template <Left kLeft>
static void run_strip(const Tile& t, int64_t rows, int64_t columns, const Ahead& ahead) {
  const TileKernels& kernels = kTileKernels<kLeft>[rows - 1];
  const int64_t wide = wide_vectors(static_cast<int>(rows));
  const int64_t vectors = columns / kPanelWidth * kPanelVectors;
  Tile part = t;
  for (int64_t v = 0; v < vectors;) {
    part.b = t.b + v / kPanelVectors * t.panel_stride + v % kPanelVectors * kLanes;
    part.c = t.c + v * kLanes;
    part.bias = t.bias ? t.bias + v * kLanes : nullptr;
    prefetch_part(ahead, ceil_div(columns, kPanelWidth), v / kPanelVectors);
    const bool is_wide = v + wide <= vectors;
    const int64_t next = v + (is_wide ? wide : kTileVectors);
    part.next_c = next < vectors ? t.c + next * kLanes : t.next_c;
    (is_wide ? kernels.wide : kernels.narrow)(part);
    v = next;
  }
  const int64_t rest = columns % kPanelWidth;
  if (rest == 0) return;
  alignas(64) float buffer[kTileRows * kPanelWidth] = {};
  alignas(64) float bias[kPanelWidth] = {};
  float* c = t.c + vectors * kLanes;
  if (t.resume)
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < rest; j++) buffer[i * kPanelWidth + j] = c[i * t.ldc + j];
  if (t.bias)
    for (int64_t j = 0; j < rest; j++) bias[j] = t.bias[vectors * kLanes + j];
  part.ldc = kPanelWidth;
  part.next_c = buffer;
  for (int64_t v = 0; v < kPanelVectors; v += kTileVectors) {
    part.b = t.b + vectors / kPanelVectors * t.panel_stride + v * kLanes;
    part.c = buffer + v * kLanes;
    part.bias = t.bias ? bias + v * kLanes : nullptr;
    kernels.narrow(part);
  }
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < rest; j++) c[i * t.ldc + j] = buffer[i * kPanelWidth + j];
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
