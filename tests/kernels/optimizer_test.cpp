#include "kernels/point_support.h"

namespace hone::kernels {
namespace {
using namespace support;

struct Adam {
  Floats p, m, v;
  explicit Adam(int64_t n) : p(random_floats(n, 21)), m(random_floats(n, 22, 0.1)), v(random_floats(n, 23, 0.1)) {
    for (float& x : v) x *= x;
  }
};

AdamwScalars scalars_of_step(int t) { return {1e-3, 0.9, 0.999, 1e-8, 0.01, 0.5, 1 - std::pow(0.9, t), std::sqrt(1 - std::pow(0.999, t))}; }

TEST(Adamw, ThreeStepsEqualFloat64) {
  for (const int64_t n : {1, 15, 16, 1000, 40000}) {
    Adam got(n);
    Doubles p(got.p.begin(), got.p.end()), m(got.m.begin(), got.m.end()), v(got.v.begin(), got.v.end());
    for (int t = 1; t <= 3; t++) {
      const AdamwScalars s = scalars_of_step(t);
      const Floats grad = random_floats(n, 24 + static_cast<uint32_t>(t));
      adamw_step(got.p.data(), grad.data(), got.m.data(), got.v.data(), n, s);
      for (size_t i = 0; i < p.size(); i++) {
        const double g = grad[i] * s.grad_scale;
        p[i] *= 1 - s.lr * s.weight_decay;
        m[i] += (g - m[i]) * (1 - s.beta1);
        v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
        p[i] -= s.lr / s.bias1 * m[i] / (std::sqrt(v[i]) / s.sqrt_bias2 + s.eps);
      }
    }
    // A few roundings of 6e-8 a step. With beta2 in float32, v would be off by 1e-5.
    EXPECT_LT(relative_error(got.p, p), 3e-7);
    EXPECT_LT(relative_error(got.m, m), 3e-7);
    EXPECT_LT(relative_error(got.v, v), 3e-7);
  }
}

TEST(Adamw, SameBitsEverywhere) {
  const int64_t n = 50011;
  const Floats grad = random_floats(n, 24);
  expect_same_bits_everywhere([&] {
    Adam a(n);
    adamw_step(a.p.data(), grad.data(), a.m.data(), a.v.data(), n, scalars_of_step(2));
    return std::vector<Floats>{a.p, a.m, a.v};
  });
}

TEST(SumSquares, EqualsTheStatedOrder) {
  for (const int64_t n : {0, 1, 7, 4095, 4096, 4097, 100003}) {
    const Floats x = random_floats(n, 25);
    double total = 0;
    for (int64_t b = 0; b < n; b += 4096) {
      double lanes[8] = {};
      for (int64_t i = b; i < n && i < b + 4096; i++)
        lanes[(i - b) % 8] += static_cast<double>(x[static_cast<size_t>(i)]) * x[static_cast<size_t>(i)];
      for (int width = 4; width; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
      total += lanes[0];
    }
    const Restore restore;
    for (const int threads : {1, 2}) {
      set_threads(threads);
      for (const Isa isa : {Isa::avx2, Isa::avx512}) {
        if (!isa_available(isa)) continue;
        force_isa(isa);
        EXPECT_EQ(sum_squares(x.data(), n), total) << n;
      }
    }
  }
}

TEST(AllFinite, FindsEveryPosition) {
  Floats x = random_floats(35, 26);
  const float largest = std::numeric_limits<float>::max();
  x[3] = largest, x[4] = -largest, x[5] = 0, x[6] = std::numeric_limits<float>::denorm_min();
  const Restore restore;
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    if (!isa_available(isa)) continue;
    force_isa(isa);
    EXPECT_TRUE(all_finite(x.data(), 35));
    EXPECT_TRUE(all_finite(x.data(), 0));
    for (size_t i = 0; i < x.size(); i++)
      for (const float bad : {kNaN, INFINITY, -INFINITY}) {
        Floats y = x;
        y[i] = bad;
        EXPECT_FALSE(all_finite(y.data(), 35)) << i;
      }
  }
  Floats large(200000, 1.0f);
  EXPECT_TRUE(all_finite(large.data(), 200000));
  large[199999] = kNaN;
  EXPECT_FALSE(all_finite(large.data(), 200000));
}

}  // namespace
}  // namespace hone::kernels
