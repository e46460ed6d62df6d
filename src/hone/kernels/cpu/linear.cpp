// y = x W^T + b over panels; dX is the same product over the transposed panels.
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/parallel.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/linear.inc"

namespace {

constexpr int64_t kBlockBytes = 1 << 20;  // panels that stay in an L2 while all rows pass by

struct Product {
  const float* x;
  int64_t ldx, K;
  const float* panels;
  int64_t N;
  const float* bias;
  float* y;
  int64_t ldy;
};

/// Rows `rows` of x, steps k0 .. k0 + depth, into tile[i * kRowStride + k]: next to each other they cannot compete for L1 sets or TLB entries.
void copy_rows(const Product& p, Range rows, int64_t k0, int64_t depth, float* tile) {
  for (int64_t m = rows.begin; m < rows.end; m++) {
    const float* from = p.x + m * p.ldx + k0;
    float* to = tile + (m - rows.begin) * kRowStride;
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) store(to + k, load(from + k));
    if (k < depth) store(to + k, load_n(from + k, depth - k));
  }
}

/// The block of y of a range of panels and a range of rows. A slice of the panels (at most kDepth steps) stays in L2 while the row tiles,
/// each copied to L1, pass by.
void product_block(const Product& p, Range panel_range, Range rows) {
  alignas(64) float tile[kTileRows * kRowStride];
  const int64_t column = panel_range.begin * kPanelWidth;
  const int64_t columns = smaller(p.N, panel_range.end * kPanelWidth) - column;
  const int64_t row_count = rows.end - rows.begin;
  const int64_t tiles = ceil_div(row_count, kTileRows);
  const int64_t slices = larger(1, ceil_div(p.K, kDepth));
  const int64_t slice = larger(1, ceil_div(ceil_div(p.K, slices), kLanes)) * kLanes;
  for (int64_t k0 = 0; k0 == 0 || k0 < p.K; k0 += slice) {
    const int64_t depth = smaller(slice, p.K - k0);
    const bool last = k0 + depth == p.K;
    for (int64_t i = 0; i < tiles; i++) {
      const Range part = part_of(row_count, tiles, i);
      const Range tile_rows = {rows.begin + part.begin, rows.begin + part.end};
      copy_rows(p, tile_rows, k0, depth, tile);
      const Tile t = {.a = tile,
                      .b = p.panels + (panel_range.begin * p.K + k0) * kPanelWidth,
                      .panel_stride = p.K * kPanelWidth,
                      .depth = depth,
                      .c = p.y + tile_rows.begin * p.ldy + column,
                      .ldc = p.ldy,
                      .resume = k0 > 0,
                      .bias = last && p.bias ? p.bias + column : nullptr};
      run_strip<Left::rows>(t, part.end - part.begin, columns);
    }
  }
}

}  // namespace

void linear_forward(const float* x, int64_t ldx, int64_t M, int64_t K, const float* panels, int64_t N, const float* bias, float* y, int64_t ldy) {
  if (M == 0 || N == 0) return;
  const Product p = {x, ldx, K, panels, N, bias, y, ldy};
  const int64_t panel_total = ceil_div(N, kPanelWidth);
  const int64_t threads = parallel_threads();
  const int64_t fitting = larger(1, kBlockBytes / (larger(1, smaller(K, kDepth)) * kPanelWidth * static_cast<int64_t>(sizeof(float))));
  const int64_t column_blocks = smaller(panel_total, ceil_div(ceil_div(panel_total, fitting), threads) * threads);
  // Few panels cannot be shared out evenly: split the rows too.
  const int64_t row_blocks = panel_total < 4 * threads ? smaller(ceil_div(M, kTileRows), 2 * threads) : 1;
  parallel(column_blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++)
      product_block(p, part_of(panel_total, column_blocks, task / row_blocks), part_of(M, row_blocks, task % row_blocks));
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
