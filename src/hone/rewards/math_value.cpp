#include "hone/rewards/math_value.h"

#include <algorithm>

namespace hone::rewards::math {
namespace {

Real real_of(const mpq_class& q) {
  Real result(0, kBits);
  mpf_set_q(result.get_mpf_t(), q.get_mpq_t());
  return result;
}

Value inexact(const Value& a) { return a.exact ? inexact_value(real_of(a.re), real_of(a.im)) : a; }

int64_t bits(const mpq_class& q) {
  return static_cast<int64_t>(std::max(mpz_sizeinbase(q.get_num_mpz_t(), 2), mpz_sizeinbase(q.get_den_mpz_t(), 2)));
}

// A greatest common divisor is quadratic in the limbs, which is what the second term pays for.
void pay(const Value& a, const Value& b, Steps& steps) {
  int64_t limbs = 8;
  if (a.exact && b.exact) limbs = (std::max(bits(a.re), bits(a.im)) + std::max(bits(b.re), bits(b.im))) / 64;
  steps.take(1 + limbs + limbs * limbs / 256);
}

Value bounded(Value value) {
  if (value.exact && std::max(bits(value.re), bits(value.im)) > kExactBits) throw OverLimit{};
  return value;
}

bool is_real(const Value& a) { return a.exact ? sgn(a.im) == 0 : sgn(a.y) == 0; }
bool is_negative(const Value& a) { return is_real(a) && (a.exact ? sgn(a.re) : sgn(a.x)) < 0; }

Value integer_power(const Value& base, int64_t exponent, Steps& steps) {
  if (exponent < 0) return divide(exact_value(1), integer_power(base, -exponent, steps), steps);
  if (base.exact) {
    const int64_t size = std::max(bits(base.re), bits(base.im));
    const bool is_unit = size <= 1;  // 0, 1, -1 and i never grow
    if (!is_unit && exponent > kExactBits / std::max<int64_t>(1, size - 1)) throw OverLimit{};
  }
  Value result = exact_value(1), square = base;
  for (;;) {
    if (exponent & 1) result = multiply(result, square, steps);
    exponent >>= 1;
    if (exponent == 0) return result;
    square = multiply(square, square, steps);
  }
}

Value complex_log(const Value& given, Steps& steps) {
  const Value a = inexact(given);
  const Real square(a.x * a.x + a.y * a.y, kBits);
  if (sgn(square) == 0) throw Undefined{};
  return inexact_value(Real(real_log(square, steps) / 2, kBits), sgn(a.y) == 0 && sgn(a.x) > 0 ? Real(0, kBits) : real_atan2(a.y, a.x, steps));
}

Value complex_exp(const Value& given, Steps& steps) {
  const Value a = inexact(given);
  const Real size = real_exp(a.x, steps);
  if (sgn(a.y) == 0) return inexact_value(size, Real(0, kBits));
  Real s(0, kBits), c(0, kBits);
  real_sin_cos(a.y, s, c, steps);
  return inexact_value(Real(size * c, kBits), Real(size * s, kBits));
}

// The exact root of a rational number that is a perfect power.
bool exact_root(const mpq_class& q, int64_t degree, mpq_class& out) {
  if (sgn(q) < 0 && degree % 2 == 0) return false;
  mpz_class num, den;
  if (!mpz_root(num.get_mpz_t(), q.get_num_mpz_t(), static_cast<unsigned long>(degree))) return false;
  if (!mpz_root(den.get_mpz_t(), q.get_den_mpz_t(), static_cast<unsigned long>(degree))) return false;
  out = mpq_class(num, den);
  return true;
}

Value sine_or_cosine(const Value& given, bool sine, Steps& steps) {
  if (!is_real(given)) throw Undefined{};
  Real s(0, kBits), c(0, kBits);
  real_sin_cos(inexact(given).x, s, c, steps);
  return inexact_value(sine ? s : c, Real(0, kBits));
}

// arcsin and arccos of a real number in [-1, 1], arctan of any.
Value arc(std::string_view function, const Value& given, Steps& steps) {
  if (!is_real(given)) throw Undefined{};
  const Real x = inexact(given).x, one(1, kBits);
  if (function == "arctan") return inexact_value(real_atan2(x, one, steps), Real(0, kBits));
  if (abs(x) > 1) throw Undefined{};
  const Real other = real_sqrt(Real(1 - x * x, kBits));
  return inexact_value(function == "arcsin" ? real_atan2(x, other, steps) : real_atan2(other, x, steps), Real(0, kBits));
}

Value hyperbolic(std::string_view function, const Value& a, Steps& steps) {
  const Value up = complex_exp(a, steps), down = complex_exp(negate(a), steps);
  const Value s = subtract(up, down, steps), c = add(up, down, steps);
  if (function == "tanh") return divide(s, c, steps);
  return divide(function == "sinh" ? s : c, exact_value(2), steps);
}

Value floor_or_ceil(const Value& a, bool floor) {
  if (!a.exact || sgn(a.im) != 0) throw Undefined{};
  mpz_class result;
  (floor ? mpz_fdiv_q : mpz_cdiv_q)(result.get_mpz_t(), a.re.get_num_mpz_t(), a.re.get_den_mpz_t());
  return exact_value(mpq_class(result));
}

Value absolute(const Value& a, Steps& steps) {
  if (is_real(a)) return is_negative(a) ? negate(a) : a;
  if (a.exact) return root(add(exact_value(a.re * a.re), exact_value(a.im * a.im), steps), 2, steps);
  return inexact_value(real_sqrt(Real(a.x * a.x + a.y * a.y, kBits)), Real(0, kBits));
}

Value factorial(const Value& a, Steps& steps) {
  int64_t n = 0;
  if (!as_integer(a, n) || n < 0) throw Undefined{};
  if (n > 5000) throw OverLimit{};
  steps.take(n);
  return bounded(exact_value(mpq_class(mpz_class::factorial(static_cast<unsigned long>(n)))));
}

}  // namespace

Value exact_value(const mpq_class& re, const mpq_class& im) {
  Value value;
  value.re = re;
  value.im = im;
  return value;
}

Value inexact_value(const Real& x, const Real& y) {
  Value value;
  value.exact = false;
  value.x = x;
  value.y = y;
  return value;
}

Value pi_value(Steps& steps) {
  steps.take(8);
  return inexact_value(Real(real_pi(), kBits), Real(0, kBits));
}

Value e_value(Steps& steps) { return inexact_value(real_exp(Real(1, kBits), steps), Real(0, kBits)); }

Value add(const Value& a, const Value& b, Steps& steps) {
  pay(a, b, steps);
  if (a.exact && b.exact) return bounded(exact_value(a.re + b.re, a.im + b.im));
  const Value p = inexact(a), q = inexact(b);
  return inexact_value(Real(p.x + q.x, kBits), Real(p.y + q.y, kBits));
}

Value subtract(const Value& a, const Value& b, Steps& steps) { return add(a, negate(b), steps); }

Value multiply(const Value& a, const Value& b, Steps& steps) {
  pay(a, b, steps);
  if (a.exact && b.exact) {
    if (sgn(a.im) == 0 && sgn(b.im) == 0) return bounded(exact_value(a.re * b.re));
    return bounded(exact_value(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re));
  }
  const Value p = inexact(a), q = inexact(b);
  return inexact_value(Real(p.x * q.x - p.y * q.y, kBits), Real(p.x * q.y + p.y * q.x, kBits));
}

Value divide(const Value& a, const Value& b, Steps& steps) {
  pay(a, b, steps);
  if (is_zero(b)) throw Undefined{};
  if (b.exact) {
    const mpq_class square = b.re * b.re + b.im * b.im;
    return multiply(a, exact_value(b.re / square, -b.im / square), steps);
  }
  const Real square(b.x * b.x + b.y * b.y, kBits);
  return multiply(a, inexact_value(Real(b.x / square, kBits), Real(-b.y / square, kBits)), steps);
}

Value negate(const Value& a) {
  if (a.exact) return exact_value(-a.re, -a.im);
  return inexact_value(Real(-a.x, kBits), Real(-a.y, kBits));
}

Value root(const Value& a, int64_t degree, Steps& steps) {
  steps.take(16);
  if (degree < 1 || degree > 1000) throw OverLimit{};
  if (is_zero(a)) return a;
  if (is_real(a)) {
    if (is_negative(a) && degree % 2 == 1) return negate(root(negate(a), degree, steps));
    if (is_negative(a) && degree == 2) return multiply(root(negate(a), 2, steps), exact_value(0, 1), steps);
    mpq_class result;
    if (a.exact && bits(a.re) > 1 && exact_root(a.re, degree, result)) return exact_value(result);
    if (a.exact && a.re == 1) return a;
    if (degree == 2 && !is_negative(a)) return inexact_value(real_sqrt(inexact(a).x), Real(0, kBits));
  }
  return complex_exp(divide(complex_log(a, steps), exact_value(static_cast<long>(degree)), steps), steps);
}

Value power(const Value& base, const Value& exponent, Steps& steps) {
  int64_t n = 0;
  if (as_integer(exponent, n)) return n == 0 ? exact_value(1) : integer_power(base, n, steps);
  if (exponent.exact && sgn(exponent.im) == 0) {
    if (is_zero(base)) {
      if (sgn(exponent.re) < 0) throw Undefined{};
      return exact_value(0);
    }
    // b^(p/q) with a small q as (b^(1/q))^p, so that 8^(2/3) is 4, exactly
    if (exponent.re.get_den() <= 1000 && exponent.re.get_num().fits_slong_p())
      return integer_power(root(base, exponent.re.get_den().get_si(), steps), exponent.re.get_num().get_si(), steps);
    if (exponent.re.get_den() == 1) {  // an integer that fits nowhere: only units have such a power
      if (!base.exact || bits(base.re) > 1 || sgn(base.im) != 0) throw OverLimit{};
      return exact_value(sgn(base.re) < 0 && mpz_odd_p(exponent.re.get_num_mpz_t()) ? -1 : 1);
    }
  }
  if (is_zero(base)) throw Undefined{};
  return complex_exp(multiply(exponent, complex_log(base, steps), steps), steps);
}

Value apply(std::string_view f, const Value& a, Steps& steps) {
  steps.take(1);
  if (f == "sin" || f == "cos") return sine_or_cosine(a, f == "sin", steps);
  if (f == "tan") return divide(sine_or_cosine(a, true, steps), sine_or_cosine(a, false, steps), steps);
  if (f == "cot") return divide(sine_or_cosine(a, false, steps), sine_or_cosine(a, true, steps), steps);
  if (f == "sec" || f == "csc") return divide(exact_value(1), sine_or_cosine(a, f == "csc", steps), steps);
  if (f.starts_with("arc")) return arc(f, a, steps);
  if (f == "sinh" || f == "cosh" || f == "tanh") return hyperbolic(f, a, steps);
  if (f == "ln") return a.exact && a.re == 1 && sgn(a.im) == 0 ? exact_value(0) : complex_log(a, steps);
  if (f == "exp") return is_zero(a) ? exact_value(1) : complex_exp(a, steps);
  if (f == "abs") return absolute(a, steps);
  if (f == "floor" || f == "ceil") return floor_or_ceil(a, f == "floor");
  if (f == "fact") return factorial(a, steps);
  throw Undefined{};
}

bool is_zero(const Value& a) {
  if (a.exact) return sgn(a.re) == 0 && sgn(a.im) == 0;
  return equal(a, exact_value(0));
}

bool equal(const Value& a, const Value& b) {
  if (a.exact && b.exact) return a.re == b.re && a.im == b.im;
  const Value p = inexact(a), q = inexact(b);
  // |p - q| <= 2^-256 max(|p|, |q|) in the norm |x| + |y|, or what cancellation may leave of a zero
  const Real difference(abs(p.x - q.x) + abs(p.y - q.y), kBits);
  Real scale(std::max(Real(abs(p.x) + abs(p.y), kBits), Real(abs(q.x) + abs(q.y), kBits))), least(1, kBits);
  mpf_div_2exp(scale.get_mpf_t(), scale.get_mpf_t(), kEqualBits);
  mpf_div_2exp(least.get_mpf_t(), least.get_mpf_t(), kZeroBits);
  return difference <= std::max(scale, least);
}

bool as_integer(const Value& a, int64_t& out) {
  if (!a.exact || sgn(a.im) != 0 || a.re.get_den() != 1 || !a.re.get_num().fits_slong_p()) return false;
  out = a.re.get_num().get_si();
  return true;
}

}  // namespace hone::rewards::math
