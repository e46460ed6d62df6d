// y = x W^T + b over panels; dX is the same product over the transposed panels. 4-bit panels are dequantised slice by slice.
#include "hone/kernels/cpu/few_rows.h"
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/transpose.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/linear.inc"

namespace {

struct Product {
  const float* x;
  int64_t ldx, K;
  const float* panels;  // of W (N, K), or of its transpose (K, N)
  QuantWeight quant;    // instead of panels
  bool transpose;
  int64_t N;
  const float* bias;
  float* y;
  int64_t ldy;
  bool go_on;  // the chains start from the stored y
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

/// Steps k0 .. k0 + depth of the panels `range` of the product, out of 4-bit panels or of the panels of the transpose; k0 is a multiple of 32.
void make_slice(const Product& p, Range range, int64_t k0, int64_t depth, float* out) {
  if (!p.transpose) {
    for (int64_t panel = range.begin; panel < range.end; panel++)
      dequantize_steps(p.quant, p.K, panel, k0, depth, out + (panel - range.begin) * depth * kPanelWidth);
    return;
  }
  alignas(64) float square[kPanelWidth * kPanelWidth];
  for (int64_t k = k0; k < k0 + depth; k += kPanelWidth)
    for (int64_t panel = range.begin; panel < range.end; panel++) {
      float* to = out + ((panel - range.begin) * depth + k - k0) * kPanelWidth;
      const int64_t column = panel * kPanelWidth, columns = smaller(kPanelWidth, p.N - column);
      if (p.quant.codes) {
        dequantize_steps(p.quant, p.N, k / kPanelWidth, column, columns, square);
        transpose_steps(square, smaller(kPanelWidth, p.K - k), columns, to);
      } else {
        transpose_square(p.panels, p.K, p.N, k, column, to);
      }
    }
}

struct Slices {  // equal cuts of K at multiples of 32, at most kDepth steps each
  int64_t count, depth;
};
Slices slices_of(int64_t K) {
  const int64_t count = larger(1, ceil_div(K, kDepth));
  return {count, ceil_div(ceil_div(K, count), kPanelWidth) * kPanelWidth};
}

/// The block of y of a range of panels and a range of rows. A slice of the panels (at most kDepth steps) stays in L2 while the row tiles,
/// each copied to L1, pass by.
void product_block(const Product& p, Range panels, Range rows) {
  alignas(64) float tile[kTileRows * kRowStride];
  const int64_t column = panels.begin * kPanelWidth;
  const int64_t columns = smaller(p.N, panels.end * kPanelWidth) - column;
  const int64_t row_count = rows.end - rows.begin;
  const int64_t tiles = ceil_div(row_count, kTileRows);
  const Slices slices = slices_of(p.K);
  const bool made = p.transpose || p.quant.codes;
  float* slice = made ? thread_scratch(1, (panels.end - panels.begin) * slices.depth * kPanelWidth) : nullptr;
  for (int64_t s = 0; s < slices.count; s++) {
    const int64_t k0 = smaller(p.K, s * slices.depth);
    const int64_t depth = smaller(slices.depth, p.K - k0);
    const bool last = s + 1 == slices.count;
    if (made) make_slice(p, panels, k0, depth, slice);
    for (int64_t i = 0; i < tiles; i++) {
      const Range part = part_of(row_count, tiles, i);
      const Range tile_rows = {rows.begin + part.begin, rows.begin + part.end};
      copy_rows(p, tile_rows, k0, depth, tile);
      const Tile t = {.a = tile,
                      .b = made ? slice : p.panels + (panels.begin * p.K + k0) * kPanelWidth,
                      .panel_stride = (made ? depth : p.K) * kPanelWidth,
                      .depth = depth,
                      .c = p.y + tile_rows.begin * p.ldy + column,
                      .ldc = p.ldy,
                      .next_c = p.y + tile_rows.end * p.ldy + column,
                      .resume = s > 0 || p.go_on,
                      .bias = last && p.bias ? p.bias + column : nullptr};
      const Range next = i + 1 < tiles ? part_of(row_count, tiles, i + 1) : Range{0, 0};
      const Ahead ahead = {p.x + (rows.begin + next.begin) * p.ldx + k0, p.ldx, next.end - next.begin, depth};
      run_strip<Left::rows>(t, part.end - part.begin, columns, ahead);
    }
  }
}

void run_product(const Product& p, int64_t M) {
  if (M == 0 || p.N == 0) return;
  const int64_t panels = ceil_div(p.N, kPanelWidth);
  const int64_t threads = parallel_threads();
  const int64_t slice_bytes = slices_of(p.K).depth * kPanelWidth * static_cast<int64_t>(sizeof(float));
  const int64_t fitting = larger(1, panel_block_bytes() / larger(1, slice_bytes));
  const int64_t column_blocks = smaller(panels, ceil_div(ceil_div(panels, fitting), threads) * threads);
  // Few panels cannot be shared out evenly: split the rows too.
  const int64_t row_blocks = panels < 4 * threads ? smaller(ceil_div(M, kTileRows), 2 * threads) : 1;
  parallel(column_blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; task++)
      product_block(p, part_of(panels, column_blocks, task / row_blocks), part_of(M, row_blocks, task % row_blocks));
  });
}

}  // namespace

void linear_forward(const float* x, int64_t ldx, int64_t M, int64_t K, const float* panels, int64_t N, const float* bias, float* y, int64_t ldy,
                    bool go_on) {
  run_product({x, ldx, K, panels, {}, false, N, bias, y, ldy, go_on}, M);
}

// dx = dy W is the forward product with the transposed weight: K columns, chains over n. The panels are transposed slice by slice in L2.
void linear_backward_input(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* panels, int64_t K, float* dx, int64_t lddx, bool go_on) {
  run_product({dy, lddy, N, panels, {}, true, K, nullptr, dx, lddx, go_on}, M);
}

void linear_forward_4bit(const float* x, int64_t ldx, int64_t M, int64_t K, const uint8_t* codes, const float* scales, const float* map, int64_t run,
                         int64_t N, const float* bias, float* y, int64_t ldy, bool go_on) {
  const QuantWeight quant = {codes, scales, map, run};
  if (M > 0 && M <= kFewRows)
    run_few_rows({x, ldx, K, quant, N, bias, y, ldy, go_on}, M);
  else
    run_product({x, ldx, K, nullptr, quant, false, N, bias, y, ldy, go_on}, M);
}

void linear_backward_input_4bit(const float* dy, int64_t lddy, int64_t M, int64_t N, const uint8_t* codes, const float* scales, const float* map,
                                int64_t run, int64_t K, float* dx, int64_t lddx, bool go_on) {
  run_product({dy, lddy, N, nullptr, {codes, scales, map, run}, true, K, nullptr, dx, lddx, go_on}, M);
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
