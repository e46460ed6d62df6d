// The matrix products against a float64 reference, and their promise: the same bits for any number of rows and threads and for both
// instruction sets.
#include "hone/kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/linear_support.h"

namespace hone::kernels {
using namespace linear_support;
namespace {

/// A chain of n fused multiply-adds is off by at most n * eps / 2 * sum |a b| (first order); the second factor leaves room for the bias.
bool near(float got, double want, double sum_of_magnitudes, int64_t terms) {
  const double tolerance = static_cast<double>(terms + 2) * 0x1p-24 * (sum_of_magnitudes + std::fabs(want)) + 1e-30;
  return std::fabs(got - want) <= tolerance;  // false for NaN
}

struct Case {
  int64_t M, N, K, ldx, ldy;
};
std::vector<Case> odd_cases() {
  std::vector<Case> cases;
  for (const int64_t N : {1, 5, 31, 32, 33, 64, 100})
    for (const int64_t K : {1, 3, 16, 17, 576})
      for (const int64_t M : {1, 2, 3, 7, 15, 33}) cases.push_back({M, N, K, K + N % 3 * 5, N + K % 3 * 7});
  cases.push_back({20, 70, 1300, 1300, 70});  // several slices of K, a whole one and a partial one
  cases.push_back({1100, 40, 30, 31, 40});    // several blocks of rows in the weight gradient
  return cases;
}
std::string name_of(const Case& c) { return "M " + std::to_string(c.M) + " N " + std::to_string(c.N) + " K " + std::to_string(c.K); }

TEST(Linear, ForwardAgreesWithFloat64AndStaysInItsColumns) {
  for (const Isa isa : available_isas())
    for (const Case& c : odd_cases()) {
      const Forced forced(isa);
      const auto x = random_floats(c.M * c.ldx, 1), w = random_floats(c.N * c.K, 2), bias = random_floats(c.N, 3);
      const Aligned panels = packed(w, c.N, c.K);
      std::vector<float> y(static_cast<size_t>(c.M * c.ldy), kUntouched);
      linear_forward(x.data(), c.ldx, c.M, c.K, panels.data, c.N, bias.data(), y.data(), c.ldy);
      for (int64_t m = 0; m < c.M; m++) {
        for (int64_t n = 0; n < c.N; n++) {
          double want = bias[n], magnitude = std::fabs(bias[n]);
          for (int64_t k = 0; k < c.K; k++) {
            const double term = double(x[m * c.ldx + k]) * w[n * c.K + k];
            want += term;
            magnitude += std::fabs(term);
          }
          ASSERT_TRUE(near(y[m * c.ldy + n], want, magnitude, c.K))
              << name_of(c) << " at " << m << ", " << n << ": " << y[m * c.ldy + n] << " " << want;
        }
        for (int64_t n = c.N; n < c.ldy; n++) ASSERT_EQ(y[m * c.ldy + n], kUntouched) << name_of(c) << ": wrote past the row";
      }
    }
}

// The definition itself: one chain of fused multiply-adds in ascending k, the bias last.
TEST(Linear, ForwardIsTheChain) {
  const int64_t M = 17, N = 45, K = 1300;
  const auto x = random_floats(M * K, 4), w = random_floats(N * K, 5), bias = random_floats(N, 6);
  const Aligned panels = packed(w, N, K);
  std::vector<float> y(M * N);
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    linear_forward(x.data(), K, M, K, panels.data, N, bias.data(), y.data(), N);
    for (int64_t m = 0; m < M; m++)
      for (int64_t n = 0; n < N; n++) {
        float chain = 0.0f;
        for (int64_t k = 0; k < K; k++) chain = std::fma(x[m * K + k], w[n * K + k], chain);
        ASSERT_EQ(y[m * N + n], chain + bias[n]) << isa_name(isa) << " " << m << ", " << n;
      }
  }
}

TEST(Linear, BackwardInputAgreesWithFloat64) {
  for (const Isa isa : available_isas())
    for (const Case& c : odd_cases()) {
      const Forced forced(isa);
      const auto dy = random_floats(c.M * c.ldy, 7), w = random_floats(c.N * c.K, 8);
      const Aligned panels = packed(w, c.N, c.K);
      Aligned scratch(panel_floats(c.K, c.N), kNaN);
      std::vector<float> dx(static_cast<size_t>(c.M * c.ldx), kUntouched);
      linear_backward_input(dy.data(), c.ldy, c.M, c.N, panels.data, c.K, dx.data(), c.ldx, scratch.data);
      for (int64_t m = 0; m < c.M; m++) {
        for (int64_t k = 0; k < c.K; k++) {
          double want = 0, magnitude = 0;
          for (int64_t n = 0; n < c.N; n++) {
            const double term = double(dy[m * c.ldy + n]) * w[n * c.K + k];
            want += term;
            magnitude += std::fabs(term);
          }
          ASSERT_TRUE(near(dx[m * c.ldx + k], want, magnitude, c.N)) << name_of(c) << " at " << m << ", " << k;
        }
        for (int64_t k = c.K; k < c.ldx; k++) ASSERT_EQ(dx[m * c.ldx + k], kUntouched) << name_of(c);
      }
      std::vector<float> unaided(dx.size(), kUntouched);
      linear_backward_input(dy.data(), c.ldy, c.M, c.N, panels.data, c.K, unaided.data(), c.ldx);
      ASSERT_TRUE(same_bits(dx.data(), unaided.data(), c.M * c.ldx)) << name_of(c);
      std::vector<float> again(dx.size(), kUntouched);
      linear_backward_input_packed(dy.data(), c.ldy, c.M, c.N, scratch.data, c.K, again.data(), c.ldx);
      ASSERT_TRUE(same_bits(dx.data(), again.data(), c.M * c.ldx)) << name_of(c);
    }
}

TEST(Linear, BackwardWeightGoesOnFromTheGradient) {
  for (const Isa isa : available_isas())
    for (const Case& c : odd_cases()) {
      const Forced forced(isa);
      const auto dy = random_floats(c.M * c.ldy, 9), x = random_floats(c.M * c.ldx, 10), before = random_floats(c.N * c.K, 11);
      Aligned dw = packed(before, c.N, c.K);
      linear_backward_weight(dy.data(), c.ldy, c.M, c.N, x.data(), c.ldx, c.K, dw.data);
      std::vector<float> got(before.size());
      unpack_panels(dw.data, 0, c.N, c.K, got.data());
      for (int64_t n = 0; n < c.N; n++)
        for (int64_t k = 0; k < c.K; k++) {
          double want = before[n * c.K + k], magnitude = std::fabs(want);
          for (int64_t m = 0; m < c.M; m++) {
            const double term = double(dy[m * c.ldy + n]) * x[m * c.ldx + k];
            want += term;
            magnitude += std::fabs(term);
          }
          ASSERT_TRUE(near(got[n * c.K + k], want, magnitude, c.M)) << name_of(c) << " at " << n << ", " << k;
        }
    }
}

TEST(Linear, EveryRowHasTheBitsOfTheRowAlone) {
  const int64_t most = 513, N = 100, K = 600, ldx = 603, ldy = 101;
  const auto x = random_floats(most * ldx, 12), w = random_floats(N * K, 13), bias = random_floats(N, 14);
  const Aligned panels = packed(w, N, K);
  std::vector<float> alone(most * ldy, kUntouched);
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    for (int64_t m = 0; m < most; m++) linear_forward(x.data() + m * ldx, ldx, 1, K, panels.data, N, bias.data(), alone.data() + m * ldy, ldy);
    std::vector<int64_t> counts{100, 513};
    for (int64_t M = 1; M <= 70; M++) counts.push_back(M);
    for (const int64_t M : counts) {
      std::vector<float> y(M * ldy, kUntouched);
      linear_forward(x.data(), ldx, M, K, panels.data, N, bias.data(), y.data(), ldy);
      ASSERT_TRUE(same_bits(y.data(), alone.data(), M * ldy)) << isa_name(isa) << ", " << M << " rows";
    }
  }
}

struct Results {
  std::vector<float> y, dx, dw, dbias;
  bool operator==(const Results& other) const {
    const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
      return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
    };
    return same(y, other.y) && same(dx, other.dx) && same(dw, other.dw) && same(dbias, other.dbias);
  }
};
Results all_products(int64_t M, int64_t N, int64_t K) {
  const auto x = random_floats(M * K, 15), w = random_floats(N * K, 16), bias = random_floats(N, 17), dy = random_floats(M * N, 18);
  const Aligned panels = packed(w, N, K);
  Aligned scratch(panel_floats(K, N)), dw(panel_floats(N, K));
  Results r{std::vector<float>(M * N), std::vector<float>(M * K), {}, std::vector<float>(N)};
  linear_forward(x.data(), K, M, K, panels.data, N, bias.data(), r.y.data(), N);
  linear_backward_input(dy.data(), N, M, N, panels.data, K, r.dx.data(), K, scratch.data);
  linear_backward_weight(dy.data(), N, M, N, x.data(), K, K, dw.data);
  bias_backward(dy.data(), N, M, N, r.dbias.data());
  r.dw.assign(dw.data, dw.data + dw.size);
  return r;
}
constexpr int64_t kShapes[][3] = {{1, 100, 70}, {5, 33, 576}, {70, 576, 100}, {600, 96, 50}, {64, 5, 1000}};

TEST(Linear, ThreadsDoNotChangeABit) {
  for (const Isa isa : available_isas())
    for (const auto& [M, N, K] : kShapes) {
      const Forced forced(isa);
      std::vector<Results> results;
      for (const int count : {1, 2, 3, 7}) {
        const Threads threads(count);
        results.push_back(all_products(M, N, K));
      }
      for (size_t i = 1; i < results.size(); i++) ASSERT_TRUE(results[i] == results[0]) << isa_name(isa) << " M " << M << " N " << N << " K " << K;
    }
}

TEST(Linear, BothInstructionSetsGiveTheSameBits) {
  if (!isa_available(Isa::avx512)) GTEST_SKIP() << "this processor has no AVX-512 to compare with";
  for (const auto& [M, N, K] : kShapes) {
    const auto with = [&](Isa isa) {
      const Forced forced(isa);
      return all_products(M, N, K);
    };
    ASSERT_TRUE(with(Isa::avx2) == with(Isa::avx512)) << "M " << M << " N " << N << " K " << K;
  }
}

TEST(Linear, WeightGradientDoesNotDependOnHowRowsAreCut) {
  const int64_t M = 1100, N = 45, K = 40;
  const auto dy = random_floats(M * N, 19), x = random_floats(M * K, 20);
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    Aligned whole(panel_floats(N, K));
    linear_backward_weight(dy.data(), N, M, N, x.data(), K, K, whole.data);
    for (const int64_t cut : {1, 2, 13, 511, 512, 513, 1099}) {
      Aligned parts(panel_floats(N, K));
      linear_backward_weight(dy.data(), N, cut, N, x.data(), K, K, parts.data);
      linear_backward_weight(dy.data() + cut * N, N, M - cut, N, x.data() + cut * K, K, K, parts.data);
      ASSERT_TRUE(same_bits(whole.data, parts.data, whole.size)) << isa_name(isa) << ", cut at " << cut;
    }
  }
}

TEST(Linear, ANonFiniteRowTouchesNoOther) {
  const int64_t M = 30, N = 40, K = 50, bad = 17;
  auto x = random_floats(M * K, 21);
  const auto w = random_floats(N * K, 22);
  const Aligned panels = packed(w, N, K);
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    std::vector<float> clean(M * N), y(M * N);
    linear_forward(x.data(), K, M, K, panels.data, N, nullptr, clean.data(), N);
    auto broken = x;
    std::fill_n(broken.begin() + bad * K, K, kNaN);
    linear_forward(broken.data(), K, M, K, panels.data, N, nullptr, y.data(), N);
    for (int64_t m = 0; m < M; m++) {
      if (m == bad) {
        for (int64_t n = 0; n < N; n++) ASSERT_TRUE(std::isnan(y[m * N + n]));
      } else {
        ASSERT_TRUE(same_bits(&y[m * N], &clean[m * N], N)) << "row " << m;
      }
    }
  }
}

TEST(Linear, PaddedLanesOfTheGradientStayZero) {
  const int64_t M = 9, N = 45, K = 20;
  const auto dy = random_floats(M * N, 23);
  const std::vector<float> x(M * K, std::numeric_limits<float>::infinity());  // 0 * inf would be NaN
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    Aligned dw(panel_floats(N, K));
    linear_backward_weight(dy.data(), N, M, N, x.data(), K, K, dw.data);
    for (int64_t k = 0; k < K; k++)
      for (int64_t lane = N % kPanel; lane < kPanel; lane++) ASSERT_EQ(dw.data[(N / kPanel * K + k) * kPanel + lane], 0.0f) << k << ", " << lane;
  }
}

TEST(Linear, NoRowsAndNoInputs) {
  const std::vector<float> bias{1, 2, 3};
  Aligned panels(panel_floats(3, 4), 1.0f);
  std::vector<float> y{7, 7, 7};
  linear_forward(nullptr, 0, 0, 4, panels.data, 3, bias.data(), y.data(), 3);
  EXPECT_EQ(y, (std::vector<float>{7, 7, 7}));
  linear_forward(y.data(), 0, 1, 0, panels.data, 3, bias.data(), y.data(), 3);
  EXPECT_EQ(y, bias);
  linear_backward_weight(nullptr, 3, 0, 3, nullptr, 4, 4, panels.data);
  EXPECT_EQ(panels.data[0], 1.0f);
}

TEST(Panels, PackUnpackAndTranspose) {
  for (const Isa isa : available_isas())
    for (const int64_t N : {1, 5, 31, 32, 33, 64, 100})
      for (const int64_t K : {1, 3, 8, 17, 32, 65}) {
        const Forced forced(isa);
        const auto w = random_floats(N * K, 24);
        const Aligned panels = packed(w, N, K);
        for (int64_t n = 0; n < panel_count(N) * kPanel; n++)
          for (int64_t k = 0; k < K; k++) ASSERT_EQ(panels.data[(n / kPanel * K + k) * kPanel + n % kPanel], n < N ? w[n * K + k] : 0.0f);
        Aligned transposed(panel_floats(K, N), kNaN);
        transpose_panels(panels.data, N, K, transposed.data);
        for (int64_t k = 0; k < panel_count(K) * kPanel; k++)
          for (int64_t n = 0; n < N; n++) ASSERT_EQ(transposed.data[(k / kPanel * N + n) * kPanel + k % kPanel], k < K ? w[n * K + k] : 0.0f);
        std::vector<float> back(w.size());
        unpack_panels(panels.data, 0, N, K, back.data());
        ASSERT_EQ(back, w);
      }
}

TEST(Panels, APartOfTheRowsLeavesTheOthersAlone) {
  const int64_t N = 100, K = 19, begin = 27, rows = 41;
  const auto w = random_floats(N * K, 25);
  Aligned panels(panel_floats(N, K), kUntouched);
  pack_panels(w.data() + begin * K, begin, rows, K, panels.data);
  for (int64_t n = 0; n < panel_count(N) * kPanel; n++)
    for (int64_t k = 0; k < K; k++) {
      const bool inside = n >= begin && n < begin + rows;
      ASSERT_EQ(panels.data[(n / kPanel * K + k) * kPanel + n % kPanel], inside ? w[n * K + k] : kUntouched) << n << ", " << k;
    }
  std::vector<float> part(rows * K);
  unpack_panels(panels.data, begin, rows, K, part.data());
  EXPECT_TRUE(same_bits(part.data(), w.data() + begin * K, rows * K));
}

TEST(Embedding, ReadsRowsAndAddsTheirGradientsInOrder) {
  const int64_t V = 70, D = 37;
  const auto table = random_floats(V * D, 26);
  const std::vector<int64_t> ids{0, 69, 31, 32, 31, 5, 31};
  const int64_t T = static_cast<int64_t>(ids.size());
  const auto dy = random_floats(T * D, 27);
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    const Aligned panels = packed(table, V, D);
    std::vector<float> y(T * D);
    embedding_forward(panels.data, D, ids.data(), T, y.data());
    for (int64_t t = 0; t < T; t++) EXPECT_TRUE(same_bits(&y[t * D], &table[ids[t] * D], D)) << t;
    Aligned gradient = packed(table, V, D);
    embedding_backward(dy.data(), D, ids.data(), T, gradient.data);
    auto want = table;
    for (int64_t t = 0; t < T; t++)
      for (int64_t d = 0; d < D; d++) want[ids[t] * D + d] += dy[t * D + d];
    std::vector<float> got(want.size());
    unpack_panels(gradient.data, 0, V, D, got.data());
    EXPECT_EQ(got, want);
  }
}

TEST(Sums, BiasGradientAndAddition) {
  const int64_t M = 37, N = 53, ld = 60;
  const auto dy = random_floats(M * ld, 28), before = random_floats(N, 29);
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    auto got = before, want = before;
    bias_backward(dy.data(), ld, M, N, got.data());
    for (int64_t m = 0; m < M; m++)
      for (int64_t n = 0; n < N; n++) want[n] += dy[m * ld + n];
    EXPECT_EQ(got, want);
    for (const int64_t count : {1, 15, 16, 17, 1024, 40000}) {
      const auto a = random_floats(count, 30), b = random_floats(count, 31);
      std::vector<float> out(count + 1, kUntouched);
      add(a.data(), b.data(), count, out.data());
      for (int64_t i = 0; i < count; i++) ASSERT_EQ(out[i], a[i] + b[i]);
      EXPECT_EQ(out[count], kUntouched);
    }
  }
}

TEST(Isa, CanBeForcedAndNamed) {
  EXPECT_STREQ(isa_name(Isa::avx2), "avx2");
  EXPECT_STREQ(isa_name(Isa::avx512), "avx512");
  for (const Isa isa : available_isas()) {
    const Forced forced(isa);
    EXPECT_EQ(active_isa(), isa);
  }
  if (!isa_available(Isa::avx512)) {
    EXPECT_ANY_THROW(force_isa(Isa::avx512));
  }
}

}  // namespace
}  // namespace hone::kernels
