#include "kernels/point_support.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/pointwise.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/pointwise.inc"
}

namespace {
using namespace support;

// A float32 result of a few operations: 2^-24 each, and sums in 16 lanes.
constexpr double kFloatError = 4e-7;

double ulps(float got, long double want) {
  const float rounded = static_cast<float>(want);
  return static_cast<double>(std::fabs(got - want) / (std::nextafter(std::fabs(rounded), INFINITY) - std::fabs(rounded)));
}

TEST(SimdMath, ExpAndLog) {
  Floats x;
  for (uint32_t i = 0; i < 400000; i++) x.push_back(static_cast<float>(-87.3 + 176.0 * random_unit(1, Purpose::test, i, 0, 0)));
  for (uint32_t i = 0; i < 100000; i++) x.push_back(static_cast<float>(-1 + 2 * random_unit(2, Purpose::test, i, 0, 0)));
  Floats y(x.size());
  avx2::exp_lanes(x.data(), static_cast<int64_t>(x.size()), y.data());
  int64_t wrong = 0;
  for (size_t i = 0; i < x.size(); i++)
    if (x[i] < 88.722f) wrong += !(ulps(y[i], expl(x[i])) < 1.1);
  EXPECT_EQ(wrong, 0);

  Floats z;
  for (size_t i = 0; i < x.size(); i++)
    z.push_back(i % 2 ? static_cast<float>(std::exp(static_cast<double>(x[i]) * 0.9)) : 1.0f + 0.3f * x[x.size() - 1 - i / 8]);
  avx2::log_lanes(z.data(), static_cast<int64_t>(z.size()), y.data());
  wrong = 0;
  for (size_t i = 0; i < z.size(); i++) wrong += !(z[i] < 1e-37f || ulps(y[i], logl(z[i])) < 1.1);
  EXPECT_EQ(wrong, 0);

  const Floats edges = {0, -0.0f, -87.4f, -1000, -INFINITY, 88.7228f, 88.7229f, 1000, INFINITY, kNaN};
  Floats at(edges.size());
  avx2::exp_lanes(edges.data(), static_cast<int64_t>(edges.size()), at.data());
  const Floats want = {1, 1, 0, 0, 0, std::exp(88.7228f), INFINITY, INFINITY, INFINITY};
  for (size_t i = 0; i < want.size(); i++) EXPECT_TRUE(at[i] == want[i] || ulps(at[i], want[i]) < 1.1) << "exp of " << edges[i] << " gave " << at[i];
  EXPECT_TRUE(std::isnan(at.back()));
  const Floats one = {1, 1.0f - 0x1p-24f, 1.0f + 0x1p-23f};
  Floats near(3);
  avx2::log_lanes(one.data(), 3, near.data());
  EXPECT_EQ(near[0], 0);
  EXPECT_LT(ulps(near[1], logl(one[1])), 1.1);
  EXPECT_LT(ulps(near[2], logl(one[2])), 1.1);

  if (!isa_available(Isa::avx512)) GTEST_SKIP() << "this machine has no AVX-512: the two instruction sets were not compared";
  x.insert(x.end(), edges.begin(), edges.end());
  Floats a(x.size()), b(x.size());
  avx2::exp_lanes(x.data(), static_cast<int64_t>(x.size()), a.data());
  avx512::exp_lanes(x.data(), static_cast<int64_t>(x.size()), b.data());
  EXPECT_EQ(first_difference(a, b), -1);
  a.resize(z.size());
  b.resize(z.size());
  avx2::log_lanes(z.data(), static_cast<int64_t>(z.size()), a.data());
  avx512::log_lanes(z.data(), static_cast<int64_t>(z.size()), b.data());
  EXPECT_EQ(first_difference(a, b), -1);
}

struct Norm {
  int64_t T, D;
  Floats x, w, dy, y, rstd, dx, dw;
  Norm(int64_t T, int64_t D) : T(T), D(D), x(random_floats(T * D, 1, 3)), w(random_floats(D, 2)), dy(random_floats(T * D, 3)) {}
  void run(int64_t begin, int64_t end) {
    const auto at = static_cast<size_t>(begin * D);
    rms_norm_forward(x.data() + at, end - begin, D, w.data(), 1e-5f, y.data() + at, rstd.data() + begin);
    rms_norm_backward(dy.data() + at, x.data() + at, rstd.data() + begin, w.data(), end - begin, D, dx.data() + at, dw.data());
  }
  void clear() {
    y.assign(static_cast<size_t>(T * D), 0);
    dx = y;
    rstd.assign(static_cast<size_t>(T), 0);
    dw.assign(static_cast<size_t>(D), 0.5f);
  }
  std::vector<Floats> outputs() const { return {y, rstd, dx, dw}; }
};

TEST(RmsNorm, EqualsFloat64) {
  for (const int64_t D : {1, 15, 64, 100, 576}) {
    Norm n(13, D);
    n.clear();
    n.run(0, n.T);
    Doubles y, dx, dw(static_cast<size_t>(D), 0.5);
    for (int64_t t = 0; t < n.T; t++) {
      const float *x = &n.x[static_cast<size_t>(t * D)], *dy = &n.dy[static_cast<size_t>(t * D)];
      double squares = 0, product = 0;
      for (int64_t i = 0; i < D; i++) squares += static_cast<double>(x[i]) * x[i];
      const double rstd = 1 / std::sqrt(squares / static_cast<double>(D) + 1e-5f);
      for (int64_t i = 0; i < D; i++) product += static_cast<double>(dy[i]) * n.w[static_cast<size_t>(i)] * x[i];
      for (int64_t i = 0; i < D; i++) {
        const double w = n.w[static_cast<size_t>(i)];
        y.push_back(x[i] * rstd * w);
        dx.push_back(rstd * dy[i] * w - x[i] * rstd * rstd * rstd * product / static_cast<double>(D));
        dw[static_cast<size_t>(i)] += dy[i] * x[i] * rstd;
      }
      EXPECT_NEAR(n.rstd[static_cast<size_t>(t)], rstd, kFloatError * rstd);
    }
    EXPECT_LT(relative_error(n.y, y), kFloatError) << D;
    // With one column dx and dw are one number each, which may nearly cancel.
    if (D > 1) {
      EXPECT_LT(relative_error(n.dw, dw), kFloatError) << D;
      EXPECT_LT(relative_error(n.dx, dx), kFloatError) << D;
    }
  }
}

TEST(RmsNorm, RowsAloneEqualRowsTogether) {
  Norm together(70, 100), alone(70, 100);
  together.clear();
  alone.clear();
  together.run(0, 70);
  for (int64_t t = 0; t < 70; t += 7) alone.run(t, t + 7);
  for (size_t i = 0; i < 4; i++) EXPECT_EQ(first_difference(together.outputs()[i], alone.outputs()[i]), -1) << "output " << i;
}

TEST(RmsNorm, SameBitsEverywhere) {
  Norm n(513, 72);
  expect_same_bits_everywhere([&] {
    n.clear();
    n.run(0, n.T);
    return n.outputs();
  });
}

TEST(RmsNorm, FrozenWeightAndNaN) {
  Norm n(3, 20);
  n.clear();
  n.x[25] = kNaN;
  rms_norm_forward(n.x.data(), 3, 20, n.w.data(), 1e-5f, n.y.data(), n.rstd.data());
  rms_norm_backward(n.dy.data(), n.x.data(), n.rstd.data(), n.w.data(), 3, 20, n.dx.data(), nullptr);
  for (size_t i = 0; i < 60; i++) EXPECT_EQ(std::isnan(n.y[i]), i / 20 == 1) << i;
  for (size_t i = 0; i < 60; i++) EXPECT_EQ(std::isnan(n.dx[i]), i / 20 == 1) << i;
}

TEST(Rope, TableIsTheAngleRoundedAsTorchRoundsIt) {
  const int64_t positions = 3000, d = 64;
  Floats cosine(static_cast<size_t>(positions * d / 2)), sine(cosine.size());
  rope_table(positions, d, 10000.0, cosine.data(), sine.data());
  int64_t wrong = 0;
  for (int64_t p = 0; p < positions; p++)
    for (int64_t i = 0; i < d / 2; i++) {
      const float inv = 1.0f / static_cast<float>(powl(10000.0L, static_cast<float>(2 * i) / static_cast<float>(d)));
      const float angle = static_cast<float>(p) * inv;
      wrong += cosine[static_cast<size_t>(p * d / 2 + i)] != static_cast<float>(cosl(angle));
      wrong += sine[static_cast<size_t>(p * d / 2 + i)] != static_cast<float>(sinl(angle));
    }
  EXPECT_EQ(wrong, 0);
}

TEST(Rope, RotatesTheFirstHeadsAndBack) {
  for (const int64_t d : {8, 16, 24, 64, 80}) {
    const int64_t T = 9, heads = 3, ld = 4 * d + 5, half = d / 2;
    const Floats x = random_floats(T * ld, 4);
    std::vector<int64_t> positions = {0, 1, 2, 3, 17, 18, 4, 5, 31};
    Floats cosine(static_cast<size_t>(32 * half)), sine(cosine.size());
    rope_table(32, d, 500.0, cosine.data(), sine.data());
    Floats got = x;
    rope_apply(got.data(), ld, T, heads, d, positions.data(), cosine.data(), sine.data(), false);
    Doubles want(x.begin(), x.end());
    for (int64_t t = 0; t < T; t++)
      for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < half; i++) {
          const auto a = static_cast<size_t>(t * ld + h * d + i), b = a + static_cast<size_t>(half);
          const auto at = static_cast<size_t>(positions[static_cast<size_t>(t)] * half + i);
          want[a] = static_cast<double>(x[a]) * cosine[at] - static_cast<double>(x[b]) * sine[at];
          want[b] = static_cast<double>(x[b]) * cosine[at] + static_cast<double>(x[a]) * sine[at];
        }
    EXPECT_LT(relative_error(got, want), kFloatError);
    for (int64_t t = 0; t < T; t++)
      EXPECT_EQ(first_difference(&got[static_cast<size_t>(t * ld + 3 * d)], &x[static_cast<size_t>(t * ld + 3 * d)], d + 5), -1);
    expect_same_bits_everywhere([&] {
      Floats y = x;
      rope_apply(y.data(), ld, T, heads, d, positions.data(), cosine.data(), sine.data(), false);
      return std::vector<Floats>{y};
    });
    rope_apply(got.data(), ld, T, heads, d, positions.data(), cosine.data(), sine.data(), true);
    EXPECT_LT(relative_error(got, x), kFloatError);
  }
}

TEST(Swiglu, EqualsFloat64) {
  for (const int64_t F : {1, 17, 96, 1536}) {
    const int64_t T = 11;
    const Floats gate_up = random_floats(T * 2 * F, 5, 3), dy = random_floats(T * F, 6);
    Floats y(static_cast<size_t>(T * F)), dgate_up(gate_up.size());
    swiglu_forward(gate_up.data(), T, F, y.data());
    swiglu_backward(dy.data(), gate_up.data(), T, F, dgate_up.data());
    Doubles want(y.size()), dwant(gate_up.size());
    for (int64_t t = 0; t < T; t++)
      for (int64_t i = 0; i < F; i++) {
        const auto gate = static_cast<size_t>(t * 2 * F + i), up = gate + static_cast<size_t>(F), out = static_cast<size_t>(t * F + i);
        const double g = gate_up[gate], s = 1 / (1 + std::exp(-g));
        want[out] = g * s * gate_up[up];
        dwant[gate] = dy[out] * static_cast<double>(gate_up[up]) * s * (1 + g * (1 - s));
        dwant[up] = dy[out] * g * s;
      }
    EXPECT_LT(relative_error(y, want), kFloatError);
    EXPECT_LT(relative_error(dgate_up, dwant), kFloatError);
  }
}

TEST(Swiglu, SameBitsEverywhereAndExtremes) {
  const int64_t T = 100, F = 200;
  const Floats gate_up = random_floats(T * 2 * F, 7, 20), dy = random_floats(T * F, 8);
  expect_same_bits_everywhere([&] {
    Floats y(static_cast<size_t>(T * F)), dgate_up(gate_up.size());
    swiglu_forward(gate_up.data(), T, F, y.data());
    swiglu_backward(dy.data(), gate_up.data(), T, F, dgate_up.data());
    return std::vector<Floats>{y, dgate_up};
  });
  const Floats edge = {-200, 200, kNaN, 2, 2, 2}, one = {1, 1, 1};
  Floats y(3), d(6);
  swiglu_forward(edge.data(), 1, 3, y.data());
  swiglu_backward(one.data(), edge.data(), 1, 3, d.data());
  EXPECT_EQ(y[0], 0);
  EXPECT_EQ(y[1], 400);
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_EQ(d[0], 0);
  EXPECT_EQ(d[1], 2);
  EXPECT_TRUE(std::isnan(d[2]) && std::isnan(d[5]));
}

}  // namespace
}  // namespace hone::kernels
