// y = x W^T + b over panels; dX is the same product over the transposed panels. Quantised panels are dequantised slice by slice.
#include "hone/kernels/cpu/few_rows.h"
#include "hone/kernels/cpu/few_rows_dense.h"
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/transpose.h"
#include "hone/kernels/side_product.h"

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
  SideProducts sides;
};

/// The columns of a side product that lie in a block of panels; none where it runs on its own, after the main product.
struct SideBlock {
  Product product;  // N is the side's columns, y its first column
  Range panels;     // of the side
  const float* b;   // its first panel there
};
constexpr int64_t kMostSides = 8;
bool rides_along(const SideProduct& side, int64_t index) { return index < kMostSides && side.begin % kPanelWidth == 0 && side.K <= kDepth; }

Product product_of(const Product& main, const SideProduct& side) {
  return {.x = side.x,
          .ldx = side.ldx,
          .K = side.K,
          .panels = side.panels,
          .quant = {},
          .transpose = main.transpose,
          .N = side.columns,
          .bias = nullptr,
          .y = main.y + side.begin,
          .ldy = main.ldy,
          .go_on = true,
          .sides = {}};
}

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

/// The side products of a block; those of a transposed weight are transposed here, into scratch memory.
int64_t side_blocks(const Product& p, Range panels, SideBlock* out) {
  int64_t count = 0, floats = 0;
  for (int64_t i = 0; i < p.sides.count; i++) {
    const SideProduct& side = p.sides.data[i];
    if (!rides_along(side, i)) continue;
    const int64_t first = side.begin / kPanelWidth, begin = larger(panels.begin, first);
    const int64_t end = smaller(panels.end, first + ceil_div(side.columns, kPanelWidth));
    if (begin >= end) continue;
    SideBlock& block = out[count++] = {product_of(p, side), {begin - first, end - first}, nullptr};
    block.b = side.panels + block.panels.begin * side.K * kPanelWidth;
    floats += (end - begin) * side.K * kPanelWidth;
  }
  if (!p.transpose || count == 0) return count;
  float* slice = thread_scratch(2, floats);
  for (int64_t i = 0; i < count; i++) {
    make_slice(out[i].product, out[i].panels, 0, out[i].product.K, slice);
    out[i].b = slice;
    slice += (out[i].panels.end - out[i].panels.begin) * out[i].product.K * kPanelWidth;
  }
  return count;
}

/// One strip of a side product, on rows whose y was just stored.
void side_strip(const SideBlock& side, Range rows, float* tile) {
  const Product& p = side.product;
  copy_rows(p, rows, 0, p.K, tile);
  const int64_t column = side.panels.begin * kPanelWidth;
  float* c = p.y + rows.begin * p.ldy + column;
  const Tile t = {
      .a = tile, .b = side.b, .panel_stride = p.K * kPanelWidth, .depth = p.K, .c = c, .ldc = p.ldy, .next_c = c, .resume = true, .bias = nullptr};
  run_strip<Left::rows>(t, rows.end - rows.begin, smaller(p.N, side.panels.end * kPanelWidth) - column, {});
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
  SideBlock sides[kMostSides];
  const int64_t side_count = side_blocks(p, panels, sides);
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
      for (int64_t j = 0; last && j < side_count; j++) side_strip(sides[j], tile_rows, tile);
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
  for (int64_t i = 0; i < p.sides.count; i++)
    if (!rides_along(p.sides.data[i], i)) run_product(product_of(p, p.sides.data[i]), M);
}

}  // namespace

void linear_forward(const float* x, int64_t ldx, int64_t M, int64_t K, const float* panels, int64_t N, const float* bias, float* y, int64_t ldy,
                    bool go_on, SideProducts sides) {
  const Product p = {x, ldx, K, panels, {}, false, N, bias, y, ldy, go_on, sides};
  if (M == 0 || N == 0 || M > kFewDenseRows) return run_product(p, M);
  run_few_dense(x, ldx, {nullptr, M, K, panels, N, bias, y, ldy, go_on});
  for (int64_t i = 0; i < sides.count; i++) {
    const SideProduct& side = sides.data[i];
    run_few_dense(side.x, side.ldx, {nullptr, M, side.K, side.panels, side.columns, nullptr, y + side.begin, ldy, true});
  }
}

// dx = dy W is the forward product with the transposed weight: K columns, chains over n. The panels are transposed slice by slice in L2.
void linear_backward_input(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* panels, int64_t K, float* dx, int64_t lddx, bool go_on,
                           SideProducts sides) {
  run_product({dy, lddy, N, panels, {}, true, K, nullptr, dx, lddx, go_on, sides}, M);
}

void linear_forward_quant(const float* x, int64_t ldx, int64_t M, int64_t K, const uint8_t* codes, const float* scales, const float* minimums,
                          const float* map, int64_t run, int64_t N, const float* bias, float* y, int64_t ldy, bool go_on, SideProducts sides) {
  const Product p = {x, ldx, K, nullptr, {codes, scales, minimums, map, run}, false, N, bias, y, ldy, go_on, sides};
  if (M == 0 || M > kFewRows) return run_product(p, M);
  run_few_rows({x, ldx, K, p.quant, N, bias, y, ldy, go_on}, M);
  for (int64_t i = 0; i < sides.count; i++) run_product(product_of(p, sides.data[i]), M);
}

void linear_backward_input_quant(const float* dy, int64_t lddy, int64_t M, int64_t N, const uint8_t* codes, const float* scales,
                                 const float* minimums, const float* map, int64_t run, int64_t K, float* dx, int64_t lddx, bool go_on,
                                 SideProducts sides) {
  run_product({dy, lddy, N, nullptr, {codes, scales, minimums, map, run}, true, K, nullptr, dx, lddx, go_on, sides}, M);
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
