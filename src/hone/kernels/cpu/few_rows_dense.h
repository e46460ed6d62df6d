#pragma once
// y = x W^T + b for the few rows of decoding with a dense weight: bound by the memory that the weights come from. Chains and their bits are those of
// gemm.h. Every task reads one contiguous run of panels once, and x is packed so that its tiles are contiguous, too.
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/transpose.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

constexpr int64_t kFewDenseRows = 2 * kTileRows;  // with more, slices that stay in L2 while row tiles pass by are as fast
constexpr int64_t kFewDenseDepth = 576;           // steps of a panel that stay in L2 while several row tiles pass by
constexpr int64_t kDenseAhead =
    8192;  // prefetch distance in bytes where one tile reads a panel, into L2: L1 has too few places for what is in flight

/// A tile of rows over `depth` steps of kVectors vectors of one panel.
struct DenseTile {
  const float* x;      // (depth, kRows), packed
  const float* panel;  // first step
  const float* ahead;  // what to prefetch meanwhile
  int64_t ahead_step;  // floats a step
  int64_t depth;
  float* y;
  int64_t ldy;
  int64_t columns;    // of y from there on
  bool resume;        // the chains go on from y
  const float* bias;  // added after the last step, or null
};

template <int kRows, int kVectors>
static void dense_tile(const DenseTile& t) {
  const auto columns_at = [&](int j) { return larger(0, smaller(kLanes, t.columns - j * kLanes)); };
  V acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) acc[i][j] = t.resume ? load_n(t.y + i * t.ldy + j * kLanes, columns_at(j)) : zero();
  const float *x = t.x, *panel = t.panel, *ahead = t.ahead;
  for (int64_t k = 0; k < t.depth; k++) {
    __builtin_prefetch(ahead, 0, 2);
    if constexpr (kVectors > 1) __builtin_prefetch(ahead + kLanes, 0, 2);
    V w[kVectors];
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++) w[j] = load(panel + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      const V value = broadcast(x[i]);
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++) acc[i][j] = fma(value, w[j], acc[i][j]);
    }
    x += kRows;
    panel += kPanelWidth;
    ahead += t.ahead_step;
  }
#pragma GCC unroll 16
  for (int j = 0; j < kVectors; j++) {
    const int64_t columns = columns_at(j);
    const V bias = t.bias ? load_n(t.bias + j * kLanes, columns) : zero();
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) store_n(t.y + i * t.ldy + j * kLanes, t.bias ? add(acc[i][j], bias) : acc[i][j], columns);
  }
}

/// Vectors of a panel that a tile of `rows` rows takes at once: all of them unless the registers forbid it.
constexpr int dense_vectors(int64_t rows) { return rows * kPanelVectors <= kTileRows * kTileVectors ? kPanelVectors : kTileVectors; }

using DenseKernel = void (*)(const DenseTile&);
template <int kRows>
constexpr DenseKernel dense_kernel = dense_tile<kRows, dense_vectors(kRows)>;
/// Entry r - 1 serves tiles of r rows.
constexpr DenseKernel kDenseKernels[] = {dense_kernel<1>,  dense_kernel<2>, dense_kernel<3>, dense_kernel<4>,  dense_kernel<5>,  dense_kernel<6>,
#if defined(HONE_ISA_avx512)
                                         dense_kernel<7>,  dense_kernel<8>, dense_kernel<9>, dense_kernel<10>, dense_kernel<11>, dense_kernel<12>,
                                         dense_kernel<13>, dense_kernel<14>
#endif
};

struct FewDense {
  const float* x;  // packed
  int64_t M, K;
  const float* panels;
  int64_t N;
  const float* bias;
  float* y;
  int64_t ldy;
  bool go_on;
};

/// Steps `steps` of all tiles: element (row i of a tile, k) stands at packed[K * first row of the tile + k * rows of the tile + i].
static void pack_tiles(const float* x, int64_t ldx, int64_t M, int64_t K, Range steps, float* packed) {
  const int64_t tiles = ceil_div(M, kTileRows);
  for (int64_t t = 0; t < tiles; t++) {
    const Range rows = part_of(M, tiles, t);
    const int64_t count = rows.end - rows.begin;
    transpose(x + rows.begin * ldx + steps.begin, ldx, count, steps.end - steps.begin, packed + rows.begin * K + steps.begin * count, count);
  }
}

/// The columns of one panel. A slice of it is read from memory by the first tile and is in L1 for the others, which prefetch the next slice.
static void dense_panel(const FewDense& p, int64_t panel) {
  const int64_t tiles = ceil_div(p.M, kTileRows), column = panel * kPanelWidth;
  const int64_t passes = tiles * (kPanelVectors / dense_vectors(ceil_div(p.M, tiles)));
  const int64_t slices = passes == 1 ? 1 : larger(1, ceil_div(p.K, kFewDenseDepth));
  for (int64_t s = 0; s < slices; s++) {
    const Range steps = part_of(p.K, slices, s);
    const float* slice = p.panels + (panel * p.K + steps.begin) * kPanelWidth;
    DenseTile t = {.x = nullptr,
                   .panel = nullptr,
                   .ahead = slice + kDenseAhead / 4,
                   .ahead_step = kPanelWidth,
                   .depth = steps.end - steps.begin,
                   .y = nullptr,
                   .ldy = p.ldy,
                   .columns = 0,
                   .resume = p.go_on || s > 0,
                   .bias = nullptr};
    if (passes > 1) {
      t.ahead = slice + t.depth * kPanelWidth;
      t.ahead_step = ceil_div(kPanelWidth, passes);
    }
    for (int64_t i = 0; i < tiles; i++) {
      const Range rows = part_of(p.M, tiles, i);
      const int64_t count = rows.end - rows.begin;
      t.x = p.x + rows.begin * p.K + steps.begin * count;
      const int vectors = dense_vectors(count);
      for (int64_t v = 0; v < kPanelVectors; v += vectors) {
        const int64_t at = column + v * kLanes;
        t.panel = slice + v * kLanes;
        t.y = p.y + rows.begin * p.ldy + at;
        t.columns = larger(0, p.N - at);
        t.bias = s + 1 == slices && p.bias ? p.bias + at : nullptr;
        kDenseKernels[count - 1](t);
        if (passes > 1) t.ahead += t.depth * t.ahead_step;
      }
    }
  }
}

/// M rows, 1 <= M <= kFewDenseRows.
static void run_few_dense(const float* x, int64_t ldx, FewDense p) {
  float* packed = thread_scratch(0, p.M * p.K);
  constexpr int64_t kBlock = 64;  // steps
  parallel(ceil_div(p.K, kBlock), larger(1, 16384 / (kBlock * p.M)), [=, M = p.M, K = p.K](int64_t begin, int64_t end) {
    pack_tiles(x, ldx, M, K, {begin * kBlock, smaller(K, end * kBlock)}, packed);
  });
  p.x = packed;
  parallel(ceil_div(p.N, kPanelWidth), 1, [&p](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; panel++) dense_panel(p, panel);
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
