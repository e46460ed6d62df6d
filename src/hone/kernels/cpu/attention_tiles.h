#pragma once
// What the attention kernels share: register-blocked products over strided operands, packed paths, and the row block of the forward.
#include "hone/kernels/cpu/gemm.h"
#include "hone/kernels/cpu/simd_math.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

/// c[i][v] = chain over steps of a[i * a_row + step * a_step] * (vector b[v * b_vector + step * b_step]), for rows i and vectors v.
struct Product {
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step, b_vector;
  int64_t steps;
  float* c;
  int64_t c_row, c_vector;
  bool resume;  // go on from c, else from 0
};

template <int kRows, int kVectors>
static void run_product(const Product& p) {
  V acc[kRows][kVectors];
  for (int i = 0; i < kRows; i++)
    for (int j = 0; j < kVectors; j++) acc[i][j] = p.resume ? load(p.c + i * p.c_row + j * p.c_vector) : zero();
  const float* a = p.a;
  const float* b = p.b;
  for (int64_t step = 0; step < p.steps; step++) {
    V w[kVectors];
    for (int j = 0; j < kVectors; j++) w[j] = load(b + j * p.b_vector);
    for (int i = 0; i < kRows; i++) {
      const V x = broadcast(a[i * p.a_row]);
      for (int j = 0; j < kVectors; j++) acc[i][j] = fma(x, w[j], acc[i][j]);
    }
    a += p.a_step;
    b += p.b_step;
  }
  for (int i = 0; i < kRows; i++)
    for (int j = 0; j < kVectors; j++) store(p.c + i * p.c_row + j * p.c_vector, acc[i][j]);
}

/// One vector of which only the first `lanes` lanes exist.
static void run_product_part(const Product& p, int64_t rows, int64_t lanes) {
  for (int64_t i = 0; i < rows; i++) {
    V acc = p.resume ? load_n(p.c + i * p.c_row, lanes) : zero();
    for (int64_t step = 0; step < p.steps; step++)
      acc = fma(broadcast(p.a[i * p.a_row + step * p.a_step]), load_n(p.b + step * p.b_step, lanes), acc);
    store_n(p.c + i * p.c_row, acc, lanes);
  }
}

template <int kVectors>
constexpr void (*kProducts[])(const Product&) = {
    run_product<1, kVectors>,  run_product<2, kVectors>,  run_product<3, kVectors>,  run_product<4, kVectors>,
    run_product<5, kVectors>,  run_product<6, kVectors>,
#if defined(HONE_ISA_avx512)
    run_product<7, kVectors>,  run_product<8, kVectors>,  run_product<9, kVectors>,  run_product<10, kVectors>,
    run_product<11, kVectors>, run_product<12, kVectors>, run_product<13, kVectors>, run_product<14, kVectors>,
#endif
};

/// A tile of at most kTileRows rows by any number of columns (floats). A single row takes four vectors at a time, to have chains enough
/// in flight.
static void run_columns(const Product& p, int64_t rows, int64_t columns) {
  Product part = p;
  int64_t done = 0;
  const auto advance = [&](int64_t vectors) {
    done += vectors * kLanes;
    part.b += vectors * p.b_vector;
    part.c += vectors * p.c_vector;
  };
  if (rows == 1)
    for (; done + 4 * kLanes <= columns; advance(4)) run_product<1, 4>(part);
  for (; done + kTileVectors * kLanes <= columns; advance(kTileVectors)) kProducts<kTileVectors>[rows - 1](part);
  for (; done + kLanes <= columns; advance(1)) kProducts<1>[rows - 1](part);
  if (done < columns) run_product_part(part, rows, columns - done);
}

/// The same for tiles of few rows, in one pass over twice the columns where they are there: enough chains in flight.
template <int kVectors>
constexpr void (*kWideProducts[])(const Product&) = {
    run_product<1, kVectors>, run_product<2, kVectors>, run_product<3, kVectors>,
#if defined(HONE_ISA_avx512)
    run_product<4, kVectors>, run_product<5, kVectors>, run_product<6, kVectors>, run_product<7, kVectors>,
#endif
};
[[maybe_unused]] static void run_wide_columns(const Product& p, int64_t rows, int64_t columns) {
  constexpr int64_t kWide = 2 * kTileVectors * kLanes;
  Product part = p;
  for (; rows > 1 && 2 * rows <= kTileRows && columns >= kWide; columns -= kWide) {
    kWideProducts<2 * kTileVectors>[rows - 1](part);
    part.b += 2 * kTileVectors * p.b_vector;
    part.c += 2 * kTileVectors * p.c_vector;
  }
  if (columns > 0) run_columns(part, rows, columns);
}

/// The path of a segment and one kv head, packed: keys (or values) d-major in panels of 16, and row-major.
HONE_INLINE int64_t panels_floats(int64_t length, int64_t d) { return ceil_div(length, kLanes) * kLanes * d; }

/// to[c * 16 + i] = x[i * ld + c] for 8 rows i and 8 columns c.
HONE_INLINE void transpose_8x8(const float* x, int64_t ld, float* to) {
  __m256 r[8], pairs[8], quads[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(x + i * ld);
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * kLanes, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * kLanes, _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31));
  }
}

/// Rows 0..count-1 of x (row stride ld) become keys position..position+count-1 of the panels.
static void pack_keys(const float* x, int64_t ld, int64_t count, int64_t d, int64_t position, float* panels) {
  for (int64_t i = 0; i < count;) {
    const int64_t j = position + i;
    float* at = panels + j / kLanes * kLanes * d + j % kLanes;
    const int64_t rows = j % 8 == 0 && i + 8 <= count ? 8 : 1;
    int64_t c = 0;
    if (rows == 8)
      for (; c + 8 <= d; c += 8) transpose_8x8(x + i * ld + c, ld, at + c * kLanes);
    for (; c < d; c++)
      for (int64_t r = 0; r < rows; r++) at[c * kLanes + r] = x[(i + r) * ld + c];
    i += rows;
  }
}

static void pack_rows(const float* x, int64_t ld, int64_t count, int64_t d, float* rows) {
  for (int64_t i = 0; i < count; i++) {
    int64_t c = 0;
    for (; c + kLanes <= d; c += kLanes) store(rows + i * d + c, load(x + i * ld + c));
    if (c < d) store_n(rows + i * d + c, load_n(x + i * ld + c, d - c), d - c);
  }
}

/// The lanes of the last panel that no key fills are set to 0.
static void clear_panel_tail(int64_t length, int64_t d, float* panels) {
  if (length % kLanes == 0) return;
  float* last = panels + length / kLanes * kLanes * d;
  for (int64_t c = 0; c < d; c++)
    for (int64_t lane = length % kLanes; lane < kLanes; lane++) last[c * kLanes + lane] = 0;
}

/// A segment table with what the kernels need besides: per segment the tokens of its ancestors.
struct Tree {
  const Segment* segments;
  int64_t count;
  const int64_t* path_begin;  // path index of the segment's first token
};

/// Calls visit(first token, number of tokens, path index of the first) for each piece of the path of `segment` below path index `limit`,
/// from the segment itself up to its root.
template <class Visit>
[[gnu::always_inline]] static inline void for_each_piece(const Tree& tree, int64_t segment, int64_t limit, const Visit& visit) {
  for (int64_t s = segment; s >= 0; s = tree.segments[s].parent) {
    const int64_t at = tree.path_begin[s], length = tree.segments[s].end - tree.segments[s].begin;
    const int64_t visible = smaller(length, limit - at);
    if (visible > 0) visit(static_cast<int64_t>(tree.segments[s].begin), visible, at);
  }
}

/// Scores of rows r = 0..rows-1, which see visible + step * r of the keys 0..keys-1 of the panels: each tile of rows against the keys that its
/// last row sees.
static void score_rows(const float* q, int64_t ldq, int64_t rows, int64_t visible, int64_t step, const float* panels, int64_t d, int64_t keys,
                       float* scores, int64_t lds) {
  constexpr int64_t kWidth = kTileVectors * kLanes;
  for (int64_t key = 0; key < keys; key += kWidth) {
    const int64_t columns = smaller(kWidth, ceil_div(keys - key, kLanes) * kLanes);
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const int64_t tile = smaller(kTileRows, rows - r);
      if (visible + step * (r + tile - 1) <= key) continue;
      run_columns({q + r * ldq, ldq, 1, panels + key * d, kLanes, kLanes * d, d, scores + r * lds + key, lds, kLanes, false}, tile, columns);
    }
  }
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
