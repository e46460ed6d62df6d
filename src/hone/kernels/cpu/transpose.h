#pragma once
// Transposing blocks of floats, and the squares of which panels are made.
#include "hone/kernels/cpu/gemm.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

/// out[j * out_stride + i] = in[i * in_stride + j] for i, j < 8.
HONE_INLINE void transpose_8x8(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  __m256 r[8], s[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(in + i * in_stride);
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(out + i * out_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps(out + (i + 4) * out_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

/// out[j * out_stride + i] = in[i * in_stride + j] for i < rows, j < columns.
static void transpose(const float* in, int64_t in_stride, int64_t rows, int64_t columns, float* out, int64_t out_stride) {
  const int64_t whole_rows = rows / 8 * 8, whole_columns = columns / 8 * 8;
  for (int64_t j = 0; j < whole_columns; j += 8)
    for (int64_t i = 0; i < whole_rows; i += 8) transpose_8x8(in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; j++) out[j * out_stride + i] = in[i * in_stride + j];
}

/// k_count <= 32 steps of a panel of n_count rows, as n_count steps of a panel of the transpose: contiguous on both sides. Rows past n_count are
/// not written, columns past k_count become 0.
static void transpose_steps(const float* steps, int64_t n_count, int64_t k_count, float* out) {
  if (k_count < kPanelWidth)
    for (int64_t i = 0; i < n_count * kPanelWidth; i++) out[i] = 0.0f;
  transpose(steps, kPanelWidth, k_count, n_count, out, kPanelWidth);
}

/// Rows n0 .. n0 + 32 and columns k0 .. k0 + 32 of an (N, K) weight in panels, as 32 columns of a panel of the transpose.
static void transpose_square(const float* panels, int64_t N, int64_t K, int64_t n0, int64_t k0, float* out) {
  transpose_steps(panels + n0 * K + k0 * kPanelWidth, smaller(kPanelWidth, N - n0), smaller(kPanelWidth, K - k0), out);
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
