// exact_exp, exact_log, exact_pow, exact_sincos: float64 without libm and without hardware fma, hence the same bits on every host.
//
// Each reduces its argument to an unevaluated sum of two doubles (hi + lo, "double-double": T. J. Dekker, "A floating-point technique for
// extending the available precision", 1971), adds the large terms of the series exactly and the small ones as a Taylor polynomial whose
// coefficients are quotients of integers. The error is below 0.6 units in the last place (tests/kernels/math_test.cpp).
#include <bit>
#include <cstdint>
#include <limits>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
// ln 2 = kLn2High + kLn2Low; kLn2High has 32 bits, so that its product with an exponent (11 bits) is exact.
constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;

struct Pair {
  double hi, lo;
};

Pair two_sum(double a, double b) {
  const double sum = a + b;
  const double b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

/// two_sum for |a| >= |b|.
Pair quick_two_sum(double a, double b) {
  const double sum = a + b;
  return {sum, b - (sum - a)};
}

Pair split(double a) {
  const double scaled = a * 134217729.0;  // 2^27 + 1
  const double hi = scaled - (scaled - a);
  return {hi, a - hi};
}

Pair two_product(double a, double b) {
  const double product = a * b;
  const Pair x = split(a), y = split(b);
  return {product, ((x.hi * y.hi - product) + x.hi * y.lo + x.lo * y.hi) + x.lo * y.lo};
}

Pair multiply(Pair a, Pair b) {
  const Pair product = two_product(a.hi, b.hi);
  return quick_two_sum(product.hi, product.lo + (a.hi * b.lo + a.lo * b.hi));
}

/// 2^k for -1022 <= k <= 1023.
double power_of_two(int k) { return std::bit_cast<double>(static_cast<uint64_t>(k + 1023) << 52); }

/// x * 2^k without rounding twice unless the result is subnormal.
double scale(double x, int k) {
  if (k > 1023) return x * power_of_two(1023) * power_of_two(k - 1023);
  if (k < -1022) return x * power_of_two(k + 1022) * power_of_two(-1022);
  return x * power_of_two(k);
}

int nearest_int(double x) { return static_cast<int>(x + (x < 0 ? -0.5 : 0.5)); }

/// exp(x.hi + x.lo) for x.hi in -745.2..709.8: x = k ln 2 + r, |r| < 0.35, exp(r) = 1 + r + r^2/2 + r^3 (1/3! + r (1/4! + ...)).
double exp_pair(Pair x) {
  const int k = nearest_int(x.hi * 0x1.71547652b82fep+0);
  const Pair r = two_sum(x.hi - k * kLn2High, x.lo - k * kLn2Low);
  double tail = 1.0 / 87178291200.0;  // 1/14!
  tail = tail * r.hi + 1.0 / 6227020800.0;
  tail = tail * r.hi + 1.0 / 479001600.0;
  tail = tail * r.hi + 1.0 / 39916800.0;
  tail = tail * r.hi + 1.0 / 3628800.0;
  tail = tail * r.hi + 1.0 / 362880.0;
  tail = tail * r.hi + 1.0 / 40320.0;
  tail = tail * r.hi + 1.0 / 5040.0;
  tail = tail * r.hi + 1.0 / 720.0;
  tail = tail * r.hi + 1.0 / 120.0;
  tail = tail * r.hi + 1.0 / 24.0;
  tail = tail * r.hi + 1.0 / 6.0;
  const Pair square = two_product(r.hi, r.hi);
  const Pair first = quick_two_sum(1.0, r.hi);
  const Pair second = quick_two_sum(first.hi, 0.5 * square.hi);
  const double small = tail * r.hi * square.hi + (first.lo + second.lo + 0.5 * square.lo + r.lo * (1.0 + r.hi));
  return scale(second.hi + small, k);
}

/// log x for finite x > 0: x = 2^k m with m in sqrt(1/2)..sqrt(2), s = (m-1)/(m+1), log m = 2 s (1 + s^2/3 + s^4/5 + ...).
Pair log_pair(double x) {
  int k = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    k = -54;
  }
  uint64_t bits = std::bit_cast<uint64_t>(x);
  k += static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull;
  double m = std::bit_cast<double>(bits);
  if (m > 0x1.6a09e667f3bcdp+0) {
    m *= 0.5;
    ++k;
  }
  const double numerator = m - 1.0;  // exact
  const Pair denominator = two_sum(m, 1.0);
  const double quotient = numerator / denominator.hi;
  const Pair back = two_product(quotient, denominator.hi);
  const Pair s = quick_two_sum(quotient, (((numerator - back.hi) - back.lo) - quotient * denominator.lo) / denominator.hi);
  const Pair z = multiply(s, s);
  double tail = 1.0 / 27.0;
  for (int odd = 25; odd >= 5; odd -= 2) tail = tail * z.hi + 1.0 / odd;
  const Pair third = multiply(z, {0x1.5555555555555p-2, 0x1.5555555555555p-56});
  const Pair series = quick_two_sum(third.hi, third.lo + z.hi * z.hi * tail);  // s^2/3 + s^4/5 + ...
  const Pair correction = multiply(s, series);
  const Pair half = quick_two_sum(s.hi, correction.hi);
  const Pair sum = two_sum(k * kLn2High, 2.0 * half.hi);
  return quick_two_sum(sum.hi, sum.lo + (2.0 * (half.lo + s.lo + correction.lo) + k * kLn2Low));
}

}  // namespace

double exact_exp(double x) {
  if (x != x) return x;
  if (x > 709.782712893384) return kInfinity;
  if (x < -745.2) return 0.0;
  return exp_pair({x, 0.0});
}

double exact_log(double x) {
  if (!(x >= 0.0)) return kNaN;
  if (x == 0.0) return -kInfinity;
  if (x == kInfinity) return x;
  const Pair y = log_pair(x);
  return y.hi + y.lo;
}

double exact_pow(double base, double exponent) {
  check(base > 0.0, "exact_pow: base {} is not above 0", base);
  if (exponent == 0.0 || base == 1.0) return 1.0;
  if (base == kInfinity || exponent - exponent != 0.0) return exact_exp(exponent * exact_log(base));
  const Pair logarithm = log_pair(base);
  const double estimate = exponent * logarithm.hi;
  if (!(estimate <= 709.8 && estimate >= -745.3)) return exact_exp(estimate);
  const Pair product = two_product(exponent, logarithm.hi);
  const Pair x = quick_two_sum(product.hi, product.lo + exponent * logarithm.lo);
  return x.hi > 709.782712893384 ? kInfinity : exp_pair(x);
}

/// x = n pi/2 + r with pi/2 in four parts of 26 bits (n * part is exact for |n| < 2^27) and a tail.
void exact_sincos(double x, double* sin, double* cos) {
  check(x == x && x <= 1e8 && x >= -1e8, "exact_sincos: {} is outside -1e8..1e8", x);
  const int n = nearest_int(x * 0x1.45f306dc9c883p-1);
  const Pair first = two_sum(x - n * 0x1.921fb5p+0, -n * 0x1.110b46p-26);
  const Pair second = two_sum(first.hi, -n * 0x1.1a6263p-54);
  const Pair third = two_sum(first.lo, second.lo);
  const Pair r = two_sum(second.hi, third.hi + (third.lo - n * 0x1.8a2e03p-81 - n * 0x1.c1cd129024e09p-107));
  const double z = r.hi * r.hi;
  double odd = 1.0 / 355687428096000.0;  // 1/17!
  odd = odd * z - 1.0 / 1307674368000.0;
  odd = odd * z + 1.0 / 6227020800.0;
  odd = odd * z - 1.0 / 39916800.0;
  odd = odd * z + 1.0 / 362880.0;
  odd = odd * z - 1.0 / 5040.0;
  odd = odd * z + 1.0 / 120.0;
  odd = odd * z - 1.0 / 6.0;
  const double s = r.hi + (r.hi * z * odd + r.lo * (1.0 - 0.5 * z));
  double even = -1.0 / 6402373705728000.0;  // 1/18!
  even = even * z + 1.0 / 20922789888000.0;
  even = even * z - 1.0 / 87178291200.0;
  even = even * z + 1.0 / 479001600.0;
  even = even * z - 1.0 / 3628800.0;
  even = even * z + 1.0 / 40320.0;
  even = even * z - 1.0 / 720.0;
  even = even * z + 1.0 / 24.0;
  const Pair square = two_product(r.hi, r.hi);
  const Pair main = quick_two_sum(1.0, -0.5 * square.hi);
  const double c = main.hi + (main.lo + (z * z * even - 0.5 * square.lo - r.hi * r.lo));
  const int quadrant = n & 3;
  *sin = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
  *cos = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
}

}  // namespace hone::kernels
