// AdamW with 8-bit moments: its tables, the arithmetic against float64, the same bits everywhere, and what is not finite. The trajectory of
// bitsandbytes itself is tests/golden/bnb_optim_test.cpp.
#include <algorithm>

#include "hone/kernels/dynamic_codes.h"
#include "hone/kernels/quant.h"
#include "kernels/point_support.h"

namespace hone::kernels {
namespace {
using namespace support;

struct Adam8 {
  Floats p, m_absmax, v_absmax;
  std::vector<uint8_t> m, v;
  explicit Adam8(int64_t n) : p(random_floats(n, 31)), m_absmax(blocks(n), kNaN), v_absmax(blocks(n), kNaN), m(n, 77), v(n, 77) {
    adamw_8bit_init(m.data(), m_absmax.data(), v.data(), v_absmax.data(), n);
  }
  static size_t blocks(int64_t n) { return static_cast<size_t>((n + 255) / 256); }
  void step(const Floats& grad, const AdamwScalars& scalars) {
    adamw_8bit_step(p.data(), grad.data(), m.data(), m_absmax.data(), v.data(), v_absmax.data(), static_cast<int64_t>(p.size()), scalars);
  }
  float first(size_t i) const { return dynamic_map(true)[m[i]] * m_absmax[i / 256]; }
  float second(size_t i) const { return dynamic_map(false)[v[i]] * v_absmax[i / 256]; }
};

AdamwScalars scalars_of_step(int t) { return {1e-3, 0.9, 0.999, 1e-8, 0.01, 0.5, 1 - std::pow(0.9, t), std::sqrt(1 - std::pow(0.999, t))}; }

TEST(DynamicTable, EveryPlaceHasTheNearestValue) {
  for (const bool is_signed : {true, false}) {
    const DynamicTable& table = dynamic_table(is_signed);
    EXPECT_EQ(table.map, dynamic_map(is_signed));
    for (int64_t place = 0; place < kDynamicGrid; place++) {
      const double value = -1.0 + 2.0 * static_cast<double>(place) / (kDynamicGrid - 1);
      double nearest = INFINITY;
      for (int code = 0; code < 256; code++) nearest = std::min(nearest, std::abs(table.map[code] - value));
      // Float32 midpoints: a place on the border may go either way by a rounding.
      ASSERT_LE(std::abs(table.map[table.codes[place]] - value), nearest + 1.2e-7) << place;
    }
  }
}

TEST(Adamw8, EachStepEqualsFloat64FromTheStoredMoments) {
  for (const int64_t n : {1, 255, 256, 257, 5000}) {
    Adam8 got(n);
    for (int t = 1; t <= 4; t++) {
      const AdamwScalars s = scalars_of_step(t);
      const Floats grad = random_floats(n, 32 + static_cast<uint32_t>(t));
      Doubles p(got.p.begin(), got.p.end()), m(p.size()), v(p.size()), m_most(got.m_absmax.size()), v_most(got.m_absmax.size());
      for (size_t i = 0; i < p.size(); i++) {
        const double g = grad[i] * s.grad_scale;
        m[i] = 0.9 * got.first(i) + 0.1 * g;
        v[i] = 0.999 * got.second(i) + 0.001 * g * g;
        p[i] = p[i] * (1 - s.lr * s.weight_decay) - s.lr / s.bias1 * m[i] / (std::sqrt(v[i]) / s.sqrt_bias2 + s.eps);
        m_most[i / 256] = std::max(m_most[i / 256], std::abs(m[i]));
        v_most[i / 256] = std::max(v_most[i / 256], v[i]);
      }
      got.step(grad, s);
      // A few roundings of 6e-8 in the values and the absmax.
      EXPECT_LT(relative_error(got.p, p), 3e-7);
      EXPECT_LT(relative_error(got.m_absmax, m_most), 3e-7);
      EXPECT_LT(relative_error(got.v_absmax, v_most), 3e-7);
      for (size_t i = 0; i < p.size(); i++) {
        // Half the widest gap of the map (0.0141 signed, 0.0070 unsigned), the least value below 1 (0.993: its gap to -1 is whole), and the grid.
        ASSERT_LE(std::abs(got.first(i) - m[i]), 0.00715 * m_most[i / 256]) << n << " " << t << " " << i;
        ASSERT_LE(std::abs(got.second(i) - v[i]), 0.00365 * v_most[i / 256]) << n << " " << t << " " << i;
      }
    }
  }
}

TEST(Adamw8, SameBitsEverywhere) {
  const int64_t n = 100003;
  expect_same_bits_everywhere([&] {
    Adam8 a(n);
    for (int t = 1; t <= 3; t++) a.step(random_floats(n, 40 + static_cast<uint32_t>(t)), scalars_of_step(t));
    return std::vector<Floats>{a.p, a.m_absmax, a.v_absmax, Floats(a.m.begin(), a.m.end()), Floats(a.v.begin(), a.v.end())};
  });
}

TEST(Adamw8, ABlockWithoutGradientsStaysZero) {
  Adam8 a(1024);
  const Floats start = a.p;
  Floats grad = random_floats(1024, 50);
  std::fill(grad.begin() + 256, grad.begin() + 512, 0.0f);
  AdamwScalars s = scalars_of_step(1);
  s.weight_decay = 0;
  for (int t = 0; t < 3; t++) a.step(grad, s);
  EXPECT_EQ(first_difference(a.p.data() + 256, start.data() + 256, 256), -1);
  EXPECT_EQ(a.m_absmax[1], 0.0f);
  EXPECT_NE(a.p[0], start[0]);
}

TEST(Adamw8, WhatIsNotFiniteStaysVisible) {
  const Restore restore;
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (!isa_available(isa)) continue;
    force_isa(isa);
    for (const float bad : {kNaN, INFINITY, -INFINITY})
      for (const size_t at : {size_t{0}, size_t{300}, size_t{599}}) {
        Adam8 a(600);
        Floats grad = random_floats(600, 51);
        grad[at] = bad;
        a.step(grad, scalars_of_step(1));
        EXPECT_FALSE(std::isfinite(a.p[at]));
        grad[at] = 1.0f;
        a.step(grad, scalars_of_step(2));  // the moments are still not numbers, the other blocks are
        EXPECT_FALSE(std::isfinite(a.first(at)));
        EXPECT_FALSE(std::isfinite(a.second(at)));
        const size_t other = at < 256 ? 256 : 0;
        EXPECT_TRUE(std::isfinite(a.p[other]) && std::isfinite(a.first(other)));
      }
  }
}

TEST(Adamw8, LearnsAQuadratic) {
  // Minimise sum (p - goal)^2 / 2 from noise: with a decaying rate the distance must fall far below the start's.
  const int64_t n = 4096;
  Adam8 a(n);
  const Floats goal = random_floats(n, 60);
  const auto distance = [&] { return relative_error(a.p, goal); };
  const double start = distance();
  for (int t = 1; t <= 300; t++) {
    Floats grad(a.p.size());
    for (size_t i = 0; i < grad.size(); i++) grad[i] = a.p[i] - goal[i];
    AdamwScalars s = scalars_of_step(t);
    s.lr = 0.05 * (1.0 - t / 301.0);
    s.weight_decay = 0;
    a.step(grad, s);
  }
  EXPECT_LT(distance(), 0.02 * start);
}

}  // namespace
}  // namespace hone::kernels
