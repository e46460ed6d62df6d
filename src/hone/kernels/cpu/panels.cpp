// Weights in panels: packing, transposing, and the embedding that shares them.
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/transpose.h"
#include "hone/kernels/side_product.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/linear.inc"

namespace {

/// Calls visit(row, rows, lane) for each panel's part of rows [row_begin, row_begin + rows): row counts from row_begin.
template <class Visit>
void for_each_panel(int64_t row_begin, int64_t rows, const Visit& visit) {
  if (rows == 0) return;
  const int64_t first = row_begin / kPanelWidth;
  const int64_t last = (row_begin + rows - 1) / kPanelWidth;
  parallel(last - first + 1, 2, [&](int64_t begin, int64_t end) {
    for (int64_t panel = first + begin; panel < first + end; panel++) {
      const int64_t from = larger(row_begin, panel * kPanelWidth);
      const int64_t to = smaller(row_begin + rows, (panel + 1) * kPanelWidth);
      visit(panel, from, to - from);
    }
  });
}

}  // namespace

void pack_panels(const float* w, int64_t row_begin, int64_t rows, int64_t K, float* panels) {
  for_each_panel(row_begin, rows, [&](int64_t panel, int64_t row, int64_t count) {
    transpose(w + (row - row_begin) * K, K, count, K, panels + panel * K * kPanelWidth + row % kPanelWidth, kPanelWidth);
  });
}

void unpack_panels(const float* panels, int64_t row_begin, int64_t rows, int64_t K, float* w) {
  for_each_panel(row_begin, rows, [&](int64_t panel, int64_t row, int64_t count) {
    transpose(panels + panel * K * kPanelWidth + row % kPanelWidth, kPanelWidth, K, count, w + (row - row_begin) * K, K);
  });
}

// A panel of the result is made of squares of 32 x 32, each contiguous on both sides.
void transpose_panels(const float* panels, int64_t N, int64_t K, float* out) {
  const int64_t in_panels = ceil_div(N, kPanelWidth), out_panels = ceil_div(K, kPanelWidth);
  parallel(in_panels * out_panels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t square = begin; square < end; square++) {
      const int64_t n0 = square / out_panels * kPanelWidth, k0 = square % out_panels * kPanelWidth;
      transpose_square(panels, N, K, n0, k0, out + k0 * N + n0 * kPanelWidth);
    }
  });
}

void embedding_forward(const float* panels, int64_t D, const int64_t* ids, int64_t T, float* y) {
  parallel(T, 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* row = panels + ids[t] / kPanelWidth * D * kPanelWidth + ids[t] % kPanelWidth;
      for (int64_t d = 0; d < D; d++) y[t * D + d] = row[d * kPanelWidth];
    }
  });
}

// Threads split the columns, so that every element's sum runs over t in order.
void embedding_backward(const float* dy, int64_t D, const int64_t* ids, int64_t T, float* demb) {
  parallel(ceil_div(D, kLanes), 1, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kLanes, last = smaller(D, end * kLanes);
    for (int64_t t = 0; t < T; t++) {
      float* row = demb + ids[t] / kPanelWidth * D * kPanelWidth + ids[t] % kPanelWidth;
      for (int64_t d = first; d < last; d++) row[d * kPanelWidth] += dy[t * D + d];
    }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
