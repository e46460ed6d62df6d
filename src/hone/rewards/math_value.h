#pragma once
// The numbers of the math verifier: exact complex rationals for as long as they last, else complex binary fractions of 512 bits.
// All of it is integer arithmetic (GMP), so that a verdict is the same on every machine; steps are counted, not seconds.
#include <gmpxx.h>

#include <cstdint>
#include <string_view>

namespace hone::rewards::math {

/// Judging an answer would take more than it may: more steps, digits, nesting.
struct OverLimit {};
/// No number: a division by zero, the logarithm of zero.
struct Undefined {};

/// What is left of the work one answer may cost, in limb operations; about one second at the very most.
class Steps {
 public:
  void take(int64_t count) {
    left_ -= count;
    if (left_ < 0) throw OverLimit{};
  }

 private:
  int64_t left_ = 2'000'000;
};

constexpr int kBits = 512;             // of an inexact number
constexpr int kEqualBits = 256;        // two inexact numbers are equal when they agree to so many
constexpr int kZeroBits = 440;         // an inexact number below 2^-440 is zero
constexpr int64_t kExactBits = 65536;  // of a numerator or denominator

using Real = mpf_class;

struct Value {
  bool exact = true;
  mpq_class re, im;               // exact
  Real x{0, kBits}, y{0, kBits};  // inexact: x + i y
};

Value exact_value(const mpq_class& re, const mpq_class& im = 0);
Value inexact_value(const Real& x, const Real& y);
Value pi_value(Steps& steps);
Value e_value(Steps& steps);

Value add(const Value& a, const Value& b, Steps& steps);
Value subtract(const Value& a, const Value& b, Steps& steps);
Value multiply(const Value& a, const Value& b, Steps& steps);
Value divide(const Value& a, const Value& b, Steps& steps);
Value negate(const Value& a);
/// Principal values; a real number's odd roots are real. Exact where the result is rational.
Value power(const Value& base, const Value& exponent, Steps& steps);
Value root(const Value& a, int64_t degree, Steps& steps);
/// sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln exp abs floor ceil fact; Undefined for other names.
Value apply(std::string_view function, const Value& a, Steps& steps);

bool is_zero(const Value& a);
bool equal(const Value& a, const Value& b);
/// The value as an integer that fits; false otherwise.
bool as_integer(const Value& a, int64_t& out);

// Elementary functions of real numbers (math_real.cpp), correct to about 500 bits.
const Real& real_pi();
Real real_exp(const Real& x, Steps& steps);
Real real_log(const Real& x, Steps& steps);  // x > 0
void real_sin_cos(const Real& x, Real& sine, Real& cosine, Steps& steps);
Real real_atan2(const Real& y, const Real& x, Steps& steps);
Real real_sqrt(const Real& x);  // x >= 0

}  // namespace hone::rewards::math
