#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "hone/base/rng.h"
#include "hone/kernels/kernels.h"

// The reference is the x87 long double libm: 64 bits of mantissa, so that a last-bit error of float64 is seen 2048-fold.
namespace hone::kernels {
namespace {

double uniform(uint32_t i, double low, double high) { return low + (high - low) * random_unit(7, Purpose::test, i, 0, 0); }

/// Error of `got` in units of the last place of the float64 nearest to `want`.
double ulps(double got, long double want) {
  const double rounded = static_cast<double>(want);
  const double ulp = std::nextafter(std::fabs(rounded), std::numeric_limits<double>::infinity()) - std::fabs(rounded);
  return static_cast<double>(std::fabs(got - want) / ulp);
}

// Correct rounding would give 0.5; the functions promise 0.6 of a unit in the last place.
constexpr double kUlps = 0.6;

TEST(ExactMath, ExpIsWithinAnUlp) {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 200000; ++i) {
    const double x = i % 2 ? uniform(i, -708, 709.7) : uniform(i, -2, 2);
    wrong += !(ulps(exact_exp(x), expl(x)) < kUlps);
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(exact_exp(0), 1);
  EXPECT_EQ(exact_exp(1000), INFINITY);
  EXPECT_EQ(exact_exp(-INFINITY), 0);
  EXPECT_EQ(exact_exp(-745.133), static_cast<double>(expl(-745.133L)));
  EXPECT_NEAR(exact_exp(-740.5) / std::numeric_limits<double>::denorm_min(), static_cast<double>(expl(-740.5L) / 0x1p-1074L), 1);
  EXPECT_TRUE(std::isnan(exact_exp(NAN)));
}

TEST(ExactMath, LogIsWithinAnUlp) {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 200000; ++i) {
    const double x = i % 2 ? std::exp(uniform(i, -700, 700)) : uniform(i, 0.5, 2);
    wrong += !(ulps(exact_log(x), logl(x)) < kUlps);
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(exact_log(1), 0);
  EXPECT_EQ(exact_log(0), -INFINITY);
  EXPECT_EQ(exact_log(INFINITY), INFINITY);
  EXPECT_TRUE(std::isnan(exact_log(-1)));
  EXPECT_TRUE(std::isnan(exact_log(NAN)));
  EXPECT_LT(ulps(exact_log(0x1.8p-1070), logl(0x1.8p-1070L)), kUlps);
}

TEST(ExactMath, PowIsWithinAnUlp) {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 200000; ++i) {
    const double base = std::exp(uniform(2 * i, -20, 20)), exponent = uniform(2 * i + 1, -30, 30);
    wrong += !(ulps(exact_pow(base, exponent), powl(base, exponent)) < kUlps);
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(exact_pow(3, 0), 1);
  EXPECT_EQ(exact_pow(2, 10), 1024);
  EXPECT_EQ(exact_pow(10, 400), INFINITY);
  EXPECT_EQ(exact_pow(10, -400), 0);
}

TEST(ExactMath, SinAndCosAreWithinAnUlp) {
  int64_t wrong = 0;
  for (uint32_t i = 0; i < 300000; ++i) {
    // Rotary angles are float32 products; whole numbers and their float32 neighbours are the common case.
    const double x = i % 3 == 0 ? std::floor(uniform(i, 0, 1e6)) : i % 3 == 1 ? static_cast<float>(uniform(i, -1e6, 1e6)) : uniform(i, -4, 4);
    double s, c;
    exact_sincos(x, &s, &c);
    wrong += !(ulps(s, sinl(x)) < 0.75 && ulps(c, cosl(x)) < 0.75);
  }
  EXPECT_EQ(wrong, 0);  // 0.75: the polynomial's own rounding at the ends of the reduced range adds a quarter
  double s, c;
  exact_sincos(0, &s, &c);
  EXPECT_EQ(s, 0);
  EXPECT_EQ(c, 1);
  exact_sincos(1.5707963267948966, &s, &c);
  EXPECT_LT(ulps(c, 6.123233995736765886e-17L), kUlps);
  EXPECT_ANY_THROW(exact_sincos(NAN, &s, &c));
  EXPECT_ANY_THROW(exact_sincos(1e9, &s, &c));
}

}  // namespace
}  // namespace hone::kernels
