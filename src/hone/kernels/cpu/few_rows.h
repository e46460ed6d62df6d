#pragma once
// y = x W^T + b for the few rows of decoding with a quantised weight: the codes are read once and become values in registers. Chains and their
// bits are those of gemm.h; there is nothing to keep in a cache, so a chain runs over all of K at once.
#include "hone/kernels/cpu/dequant.h"
#include "hone/kernels/cpu/parallel.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

#if defined(HONE_ISA_avx512)
constexpr int64_t kTileOfFew = 12;  // rows whose accumulators fit the registers beside the table, the scales and the weights
constexpr int64_t kFewRows = 24;    // with more, slices that are dequantised once are faster
#else
constexpr int64_t kTileOfFew = 3;
constexpr int64_t kFewRows = 3;
#endif
constexpr int64_t kCodesAhead = 2048;  // prefetch distance in bytes: half a page, where the hardware's stops

struct FewRows {
  const float* x;
  int64_t ldx, K;
  QuantWeight w;
  int64_t N;
  const float* bias;
  float* y;
  int64_t ldy;
  bool go_on;
};

/// kRows rows by kPanels panels from `panel` on. Several panels side by side keep enough chains in flight where rows are few.
template <int kRows, int kPanels, Codes kKind>
static void few_rows(const FewRows& p, int64_t panel) {
  constexpr bool kMinimums = kKind == Codes::nibbles_minimums;
  constexpr int64_t kBytes = step_bytes(kKind);
  const auto columns_at = [&](int j) { return larger(0, smaller(kLanes, p.N - panel * kPanelWidth - j * kLanes)); };
  float* y = p.y + panel * kPanelWidth;
  V acc[kRows][2 * kPanels];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 16
    for (int j = 0; j < 2 * kPanels; j++) acc[i][j] = p.go_on ? load_n(y + i * p.ldy + j * kLanes, columns_at(j)) : zero();
  const Table16 table = load_table_of<kKind>(p.w);
  const uint8_t* codes = p.w.codes + panel * p.K * kBytes;
  const int64_t runs = p.K / p.w.run, next_panel = runs * kPanelWidth;
  const float* scales = p.w.scales + panel * next_panel;
  const float* minimums = kMinimums ? p.w.minimums + panel * next_panel : nullptr;
  const float* x = p.x;
  for (int64_t run = 0; run < runs; run++) {
    V scale[2 * kPanels], minimum[2 * kPanels];
#pragma GCC unroll 16
    for (int j = 0; j < 2 * kPanels; j++) {
      const int64_t at = run * kPanelWidth + j / 2 * next_panel + j % 2 * kLanes;
      scale[j] = load(scales + at);
      if constexpr (kMinimums) minimum[j] = load(minimums + at);
    }
    for (int64_t k = 0; k < p.w.run; k++, x++, codes += kBytes) {
#pragma GCC unroll 16
      for (int q = 0; q < kPanels; q++) {
        __builtin_prefetch(codes + q * p.K * kBytes + kCodesAhead);
        const Step step = load_step<kKind>(table, codes + q * p.K * kBytes);
        V low = mul(step.low, scale[2 * q]);
        V high = mul(step.high, scale[2 * q + 1]);
        if constexpr (kMinimums) low = add(low, minimum[2 * q]), high = add(high, minimum[2 * q + 1]);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; i++) {
          const V value = broadcast(x[i * p.ldx]);
          acc[i][2 * q] = fma(value, low, acc[i][2 * q]);
          acc[i][2 * q + 1] = fma(value, high, acc[i][2 * q + 1]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int j = 0; j < 2 * kPanels; j++) {
    const int64_t columns = columns_at(j);
    const V bias = p.bias ? load_n(p.bias + panel * kPanelWidth + j * kLanes, columns) : zero();
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) store_n(y + i * p.ldy + j * kLanes, p.bias ? add(acc[i][j], bias) : acc[i][j], columns);
  }
}

/// Panels side by side for a number of rows, so that at least 8 chains are in flight.
constexpr int panels_at_once(int64_t rows) { return kTileOfFew > 3 && rows <= 2 ? 2 : 1; }

struct FewRowsKernels {  // by Codes
  void (*one_panel[3])(const FewRows&, int64_t);
  void (*at_once[3])(const FewRows&, int64_t);
};
template <int kRows>
constexpr FewRowsKernels few_rows_kernels() {
  constexpr int kWide = panels_at_once(kRows);
  return {{few_rows<kRows, 1, Codes::nibbles>, few_rows<kRows, 1, Codes::nibbles_minimums>, few_rows<kRows, 1, Codes::bytes>},
          {few_rows<kRows, kWide, Codes::nibbles>, few_rows<kRows, kWide, Codes::nibbles_minimums>, few_rows<kRows, kWide, Codes::bytes>}};
}
/// Entry r - 1 serves r rows.
constexpr FewRowsKernels kFewRowsKernels[] = {few_rows_kernels<1>(), few_rows_kernels<2>(), few_rows_kernels<3>(),
#if defined(HONE_ISA_avx512)
                                              few_rows_kernels<4>(), few_rows_kernels<5>(), few_rows_kernels<6>(),  few_rows_kernels<7>(),
                                              few_rows_kernels<8>(), few_rows_kernels<9>(), few_rows_kernels<10>(), few_rows_kernels<11>(),
                                              few_rows_kernels<12>()
#endif
};

/// M rows, 1 <= M <= kFewRows.
static void run_few_rows(const FewRows& p, int64_t M) {
  const int64_t tiles = ceil_div(M, kTileOfFew);
  const int kind = static_cast<int>(codes_of(p.w));
  const int64_t panels = ceil_div(p.N, kPanelWidth), at_once = panels_at_once(M), groups = ceil_div(panels, at_once);
  parallel(groups, larger(1, groups / (4 * parallel_threads())), [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; group++)
      for (int64_t tile = 0; tile < tiles; tile++) {
        const Range rows = part_of(M, tiles, tile);
        FewRows part = p;
        part.x += rows.begin * p.ldx;
        part.y += rows.begin * p.ldy;
        const FewRowsKernels& kernels = kFewRowsKernels[rows.end - rows.begin - 1];
        const int64_t first = group * at_once, last = smaller(panels, first + at_once);
        if (last - first == at_once)
          kernels.at_once[kind](part, first);
        else
          for (int64_t panel = first; panel < last; panel++) kernels.one_panel[kind](part, panel);
      }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
