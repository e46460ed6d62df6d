// dW += dY^T X, a chain over the rows that goes on from the gradient's stored value, straight into its panels.
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/side_product.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/linear.inc"

namespace {

constexpr int64_t kRowBlock = 256;        // rows of dy and x that are packed at a time
constexpr int64_t kGroupBytes = 1 << 20;  // packed tiles of x that stay in an L2 while the panels of dy pass by

/// Steps of x in tiles: tile t holds columns part_of(K, tiles, t) of x as [row][16].
void pack_tiles(const float* x, int64_t ldx, int64_t K, int64_t tiles, int64_t rows, Range range, float* out) {
  for (int64_t m = range.begin; m < range.end; m++) {
    const float* from = x + m * ldx;
    for (int64_t t = 0; t < tiles; t++) {
      const int64_t k = part_of(K, tiles, t).begin;
      store(out + (t * rows + m) * kLanes, k + kLanes <= K ? load(from + k) : load_n(from + k, K - k));
    }
  }
}

/// Columns n0 .. n0 + 32 of dy as [row][32]; columns past N are 0.
void pack_panel(const float* dy, int64_t lddy, int64_t N, int64_t n0, int64_t rows, float* out) {
  const int64_t columns = smaller(kPanelWidth, N - n0);
  for (int64_t m = 0; m < rows; m++) {
    const float* from = dy + m * lddy + n0;
    for (int64_t v = 0; v < kPanelVectors; v++) {
      const int64_t valid = smaller(kLanes, larger(0, columns - v * kLanes));
      store(out + m * kPanelWidth + v * kLanes, valid == kLanes ? load(from + v * kLanes) : load_n(from + v * kLanes, valid));
    }
  }
}

}  // namespace

void linear_backward_weight(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* x, int64_t ldx, int64_t K, float* dw) {
  if (M == 0 || N == 0 || K == 0) return;
  const int64_t tiles = ceil_div(K, kTileRows);
  const int64_t panels = ceil_div(N, kPanelWidth);
  const int64_t blocks = ceil_div(M, kRowBlock);
  const int64_t most_rows = ceil_div(M, blocks);
  float* packed = thread_scratch(0, tiles * most_rows * kLanes);
  const int64_t fitting = larger(1, kGroupBytes / (most_rows * kLanes * static_cast<int64_t>(sizeof(float))));
  int64_t groups = ceil_div(tiles, fitting);
  if (panels < 4 * parallel_threads()) groups = smaller(tiles, larger(groups, 2 * parallel_threads()));
  for (int64_t block = 0; block < blocks; block++) {
    const Range range = part_of(M, blocks, block);
    const int64_t rows = range.end - range.begin;
    const float* x_block = x + range.begin * ldx;
    parallel(rows, 32, [&](int64_t begin, int64_t end) { pack_tiles(x_block, ldx, K, tiles, rows, {begin, end}, packed); });
    parallel(groups * panels, 1, [&](int64_t begin, int64_t end) {
      alignas(64) float right[kRowBlock * kPanelWidth];
      for (int64_t task = begin; task < end; task++) {
        const int64_t n0 = task % panels * kPanelWidth;
        pack_panel(dy + range.begin * lddy, lddy, N, n0, rows, right);
        const Range group = part_of(tiles, groups, task / panels);
        const int64_t next = task + 1 < end ? (task + 1) % panels * kPanelWidth : n0;
        const float* next_dy = dy + range.begin * lddy + next;
        for (int64_t i = group.begin; i < group.end; i++) {
          const Range k = part_of(K, tiles, i);
          const Tile t = {.a = packed + i * rows * kLanes,
                          .b = right,
                          .panel_stride = 0,
                          .depth = rows,
                          .c = dw + n0 * K + k.begin * kPanelWidth,
                          .ldc = kPanelWidth,
                          .next_c = dw + n0 * K + k.end * kPanelWidth,
                          .resume = true,
                          .bias = nullptr};
          const Range ahead = part_of(rows, group.end - group.begin, i - group.begin);
          run_strip<Left::steps>(t, k.end - k.begin, smaller(kPanelWidth, N - n0),
                                 {next_dy + ahead.begin * lddy, lddy, ahead.end - ahead.begin, kPanelWidth});
        }
      }
    });
  }
}

void bias_backward(const float* dy, int64_t lddy, int64_t M, int64_t N, float* dbias) {
  parallel(ceil_div(N, kLanes), 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      const int64_t n = block * kLanes;
      const int64_t count = smaller(kLanes, N - n);
      V sum = load_n(dbias + n, count);
      for (int64_t m = 0; m < M; m++) sum = add(sum, load_n(dy + m * lddy + n, count));
      store_n(dbias + n, sum, count);
    }
  });
}

void add(const float* a, const float* b, int64_t count, float* out) {
  constexpr int64_t kBlock = 1024;
  parallel(ceil_div(count, kBlock), 16, [&](int64_t begin, int64_t end) {
    const int64_t last = smaller(count, end * kBlock);
    int64_t i = begin * kBlock;
    for (; i + kLanes <= last; i += kLanes) store(out + i, add(load(a + i), load(b + i)));
    if (i < last) store_n(out + i, add(load_n(a + i, last - i), load_n(b + i, last - i)), last - i);
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
