// exp, log, sin, cos and atan2 of binary fractions, by their series after a reduction of the argument.
#include "hone/rewards/math_value.h"

namespace hone::rewards::math {
namespace {

constexpr int kWork = kBits + 64;  // guard bits
constexpr int kSeriesSteps = 600;  // what one series costs, in limb operations (about 60 terms of 9 limbs)

Real working(const Real& x) { return Real(x, kWork); }

// Below this a further term changes nothing.
bool is_negligible(const Real& term) {
  if (sgn(term) == 0) return true;
  long exponent = 0;
  mpf_get_d_2exp(&exponent, term.get_mpf_t());
  return exponent < -(kWork + 8);
}

// arctan(1/n) = sum (-1)^k / ((2k+1) n^(2k+1))
Real arctan_inverse(unsigned long n) {
  Real power(1, kWork), sum(0, kWork);
  power /= n;
  for (unsigned long k = 0; !is_negligible(power); ++k) {
    Real term(power / (2 * k + 1), kWork);
    if (k % 2)
      sum -= term;
    else
      sum += term;
    power /= n * n;
  }
  return sum;
}

// arctan of 0 <= x <= 1: three halvings, arctan(x) = 2 arctan(x / (1 + sqrt(1 + x^2))), then the series.
Real arctan_unit(Real x) {
  constexpr int halvings = 6;
  for (int i = 0; i < halvings; ++i) x = Real(x / (1 + sqrt(Real(1 + x * x, kWork))), kWork);
  Real power(x), square(x * x, kWork), sum(0, kWork);
  for (unsigned long k = 0; !is_negligible(power); ++k) {
    Real term(power / (2 * k + 1), kWork);
    if (k % 2)
      sum -= term;
    else
      sum += term;
    power *= square;
  }
  return Real(sum * (1 << halvings), kWork);
}

// ln(2) = 2 artanh(1/3); ln(m) = 2 artanh((m - 1) / (m + 1))
Real twice_artanh(const Real& z) {
  Real power(z, kWork), square(z * z, kWork), sum(0, kWork);
  for (unsigned long k = 0; !is_negligible(power); ++k) {
    sum += Real(power / (2 * k + 1), kWork);
    power *= square;
  }
  return Real(2 * sum, kWork);
}

const Real& log_of_two() {
  static const Real value = twice_artanh(Real(Real(1, kWork) / 3, kWork));
  return value;
}

// The binary exponent of a value; arguments beyond 2^40 are refused: their reduction would cancel all digits.
void check_argument(const Real& x) {
  long exponent = 0;
  mpf_get_d_2exp(&exponent, x.get_mpf_t());
  if (exponent > 40) throw OverLimit{};
}

}  // namespace

const Real& real_pi() {
  static const Real value(16 * arctan_inverse(5) - 4 * arctan_inverse(239), kWork);
  return value;
}

Real real_exp(const Real& given, Steps& steps) {
  steps.take(kSeriesSteps);
  check_argument(given);
  const Real x = working(given);
  const Real scaled(x / log_of_two(), kWork);
  Real floor_part(0, kWork);
  mpf_floor(floor_part.get_mpf_t(), scaled.get_mpf_t());
  const long two_power = floor_part.get_si();
  constexpr int halvings = 8;
  Real r(x - floor_part * log_of_two(), kWork);
  mpf_div_2exp(r.get_mpf_t(), r.get_mpf_t(), halvings);
  Real term(1, kWork), sum(1, kWork);
  for (unsigned long k = 1; !is_negligible(term); ++k) {
    term *= r;
    term /= k;
    sum += term;
  }
  for (int i = 0; i < halvings; ++i) sum *= sum;
  if (two_power >= 0)
    mpf_mul_2exp(sum.get_mpf_t(), sum.get_mpf_t(), static_cast<mp_bitcnt_t>(two_power));
  else
    mpf_div_2exp(sum.get_mpf_t(), sum.get_mpf_t(), static_cast<mp_bitcnt_t>(-two_power));
  return Real(sum, kBits);
}

Real real_log(const Real& given, Steps& steps) {
  steps.take(kSeriesSteps * 2);
  long exponent = 0;
  mpf_get_d_2exp(&exponent, given.get_mpf_t());
  Real mantissa = working(given);  // 0.5 <= mantissa < 1 after the shift
  if (exponent >= 0)
    mpf_div_2exp(mantissa.get_mpf_t(), mantissa.get_mpf_t(), static_cast<mp_bitcnt_t>(exponent));
  else
    mpf_mul_2exp(mantissa.get_mpf_t(), mantissa.get_mpf_t(), static_cast<mp_bitcnt_t>(-exponent));
  return Real(twice_artanh(Real((mantissa - 1) / (mantissa + 1), kWork)) + exponent * log_of_two(), kBits);
}

void real_sin_cos(const Real& given, Real& sine, Real& cosine, Steps& steps) {
  steps.take(kSeriesSteps * 2);
  check_argument(given);
  const Real x = working(given);
  const Real turn(2 * real_pi(), kWork);
  Real turns(x / turn, kWork);
  mpf_floor(turns.get_mpf_t(), turns.get_mpf_t());
  constexpr int halvings = 8;
  Real r(x - turns * turn, kWork);
  mpf_div_2exp(r.get_mpf_t(), r.get_mpf_t(), halvings);
  Real term(1, kWork), c(0, kWork), s(0, kWork);
  for (unsigned long k = 0; !is_negligible(term); ++k) {
    Real& sum = k % 2 ? s : c;
    if (k % 4 < 2)
      sum += term;
    else
      sum -= term;
    term *= r;
    term /= k + 1;
  }
  for (int i = 0; i < halvings; ++i) {  // the double angle
    const Real twice(2 * s * c, kWork);
    c = Real(c * c - s * s, kWork);
    s = twice;
  }
  sine = Real(s, kBits);
  cosine = Real(c, kBits);
}

Real real_atan2(const Real& given_y, const Real& given_x, Steps& steps) {
  steps.take(kSeriesSteps * 2);
  const Real x = working(given_x), y = working(given_y);
  const Real ax(abs(x), kWork), ay(abs(y), kWork);
  if (sgn(ax) == 0 && sgn(ay) == 0) throw Undefined{};
  Real angle(0, kWork);
  if (ay <= ax)
    angle = arctan_unit(Real(ay / ax, kWork));
  else
    angle = Real(real_pi() / 2 - arctan_unit(Real(ax / ay, kWork)), kWork);
  if (sgn(x) < 0) angle = Real(real_pi() - angle, kWork);
  if (sgn(y) < 0) angle = Real(-angle, kWork);
  return Real(angle, kBits);
}

Real real_sqrt(const Real& x) { return Real(sqrt(Real(x, kWork)), kBits); }

}  // namespace hone::rewards::math
