// Quantised weights into panels and out of them.
#include "hone/kernels/quant_tables.h"

#include "hone/kernels/cpu/dequant.h"
#include "hone/kernels/cpu/parallel.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/quant.inc"

namespace {

/// Calls visit(row) for rows [row_begin, row_begin + rows), threads splitting at the panels' edges: lanes j and j + 16 share bytes.
template <class Visit>
void for_each_row(int64_t row_begin, int64_t rows, const Visit& visit) {
  if (rows == 0) return;
  const int64_t first = row_begin / kPanelWidth;
  const int64_t last = (row_begin + rows - 1) / kPanelWidth;
  parallel(last - first + 1, 1, [&](int64_t begin, int64_t end) {
    const ScopedDenormals denormals;
    for (int64_t row = larger(row_begin, (first + begin) * kPanelWidth); row < smaller(row_begin + rows, (first + end) * kPanelWidth); row++)
      visit(row);
  });
}

}  // namespace

void pack_quant_codes(const uint8_t* codes, int64_t row_begin, int64_t rows, int64_t K, uint8_t* panel_codes) {
  for_each_row(row_begin, rows, [&](int64_t row) {
    const int64_t lane = row % kPanelWidth, panel = row / kPanelWidth, flat = (row - row_begin) * K;
    const int shift = lane < kStepBytes ? 0 : 4;
    const int keep = 0xf0 >> shift;
    uint8_t* to = panel_codes + panel * K * kStepBytes + lane % kStepBytes;
    for (int64_t k = 0; k < K; k++) {
      const int code = codes[(flat + k) / 2] >> ((flat + k) % 2 == 0 ? 4 : 0) & 15;
      to[k * kStepBytes] = static_cast<uint8_t>((to[k * kStepBytes] & keep) | code << shift);
    }
  });
}

void pack_byte_codes(const uint8_t* codes, int64_t row_begin, int64_t rows, int64_t K, uint8_t* panel_codes) {
  for_each_row(row_begin, rows, [&](int64_t row) {
    uint8_t* to = panel_codes + row / kPanelWidth * K * kPanelWidth + row % kPanelWidth;
    for (int64_t k = 0; k < K; k++) to[k * kPanelWidth] = codes[(row - row_begin) * K + k];
  });
}

void pack_quant_scales(const float* values, int64_t block, int64_t row_begin, int64_t rows, int64_t K, int64_t run, float* panel_values) {
  for_each_row(row_begin, rows, [&](int64_t row) {
    float* to = panel_values + row / kPanelWidth * (K / run) * kPanelWidth + row % kPanelWidth;
    for (int64_t k = 0; k < K; k += run) to[k / run * kPanelWidth] = values[((row - row_begin) * K + k) / block];
  });
}

void unpack_quant_panels(const uint8_t* codes, const float* scales, const float* minimums, const float* map, int64_t run, int64_t row_begin,
                         int64_t rows, int64_t K, float* w) {
  for_each_row(row_begin, rows, [&](int64_t row) {
    const int64_t lane = row % kPanelWidth, panel = row / kPanelWidth;
    const int shift = lane < kStepBytes ? 0 : 4;
    const int64_t step = map ? kStepBytes : kPanelWidth;
    const uint8_t* from = codes + panel * K * step + lane % step;
    const int64_t first = panel * (K / run) * kPanelWidth + lane;
    for (int64_t k = 0; k < K; k++) {
      const int64_t at = first + k / run * kPanelWidth;
      const float value = (map ? map[from[k * step] >> shift & 15] : static_cast<float>(static_cast<int8_t>(from[k * step]))) * scales[at];
      w[(row - row_begin) * K + k] = minimums ? value + minimums[at] : value;
    }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
