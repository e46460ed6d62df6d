// The value of an expression at a point.
#include <algorithm>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {
namespace {

// Variables are positive numbers: a fixed rational for each name and point, below 1 at even points and above at odd ones.
Value symbol_value(const std::string& name, int point) {
  uint64_t h = 1469598103934665603ull + static_cast<uint64_t>(point) * 0x9E3779B97F4A7C15ull;  // FNV-1a, then a finaliser
  for (const unsigned char c : name) h = (h ^ c) * 1099511628211ull;
  h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDull;
  h ^= h >> 29;
  const unsigned long small = 1 + h % 99991, large = small + 1 + (h >> 32) % 99989;
  mpq_class value(point % 2 == 0 ? small : large, point % 2 == 0 ? large : small);
  value.canonicalize();
  return exact_value(value);
}

int digit_value(char c) { return c <= '9' ? c - '0' : c - 'A' + 10; }

Value based_value(const Node& node, bool as_decimal, Steps& steps) {
  const mpq_class base = as_decimal ? mpq_class(10) : node.children[0]->number;
  mpq_class value = 0, place = 1;
  bool fraction = false;
  for (const char c : node.name) {
    steps.take(1 + static_cast<int64_t>(node.name.size()) / 16);
    if (c == '.') {
      if (fraction) throw Undefined{};
      fraction = true;
      continue;
    }
    if (digit_value(c) >= base) throw Undefined{};
    if (fraction)
      value += (place /= base) * digit_value(c);
    else
      value = value * base + digit_value(c);
  }
  return exact_value(value);
}

Value binomial(const Value& n, const Value& k, Steps& steps) {
  int64_t top = 0, bottom = 0;
  if (!as_integer(n, top) || !as_integer(k, bottom) || top < 0 || bottom < 0) throw Undefined{};
  if (top > 10000) throw OverLimit{};
  steps.take(top);
  mpz_class result;
  mpz_bin_uiui(result.get_mpz_t(), static_cast<unsigned long>(top), static_cast<unsigned long>(bottom));
  return exact_value(mpq_class(result));
}

Value function_value(const Node& node, const Point& point, Steps& steps) {
  Point inner = point;
  inner.in_function = true;
  const Value a = evaluate(*node.children[0], inner, steps);
  if (node.children.size() == 1) return apply(node.name, a, steps);
  const Value b = evaluate(*node.children[1], inner, steps);
  if (node.name == "binom") return binomial(a, b, steps);
  if (node.name == "log") return divide(apply("ln", a, steps), apply("ln", b, steps), steps);
  int64_t degree = 0;
  if (as_integer(b, degree) && degree > 0) return root(a, degree, steps);
  return power(a, divide(exact_value(1), b, steps), steps);
}

}  // namespace

Value evaluate(const Node& node, const Point& point, Steps& steps) {
  steps.take(1);
  const auto child = [&](size_t i) { return evaluate(*node.children[i], point, steps); };
  switch (node.kind) {
    case Kind::number:
      return exact_value(node.number);
    case Kind::symbol:
      return symbol_value(node.name, point.index);
    case Kind::constant:
      if (node.name == "i") return exact_value(0, 1);
      return node.name == "pi" ? pi_value(steps) : e_value(steps);
    case Kind::negate:
      return negate(child(0));
    case Kind::add:
    case Kind::multiply: {
      Value value = child(0);
      for (size_t i = 1; i < node.children.size(); ++i)
        value = node.kind == Kind::add ? add(value, child(i), steps) : multiply(value, child(i), steps);
      return value;
    }
    case Kind::divide:
      return divide(child(0), child(1), steps);
    case Kind::power: {
      if (node.children[0]->kind == Kind::constant && node.children[0]->name == "e") return apply("exp", child(1), steps);
      const Value base = child(0);
      return power(base, child(1), steps);
    }
    case Kind::function:
      return function_value(node, point, steps);
    case Kind::degree:  // an angle counts in degrees, but what a function takes is in radians
      return point.in_function ? divide(multiply(child(0), pi_value(steps), steps), exact_value(180), steps) : child(0);
    case Kind::percent:
      return point.percent_is_number ? child(0) : divide(child(0), exact_value(100), steps);
    case Kind::based:
      return based_value(node, point.digits_only, steps);
    default:
      throw Undefined{};
  }
}

bool is_expression(const Node& node) {
  if (node.kind >= Kind::ratio) return false;
  return std::all_of(node.children.begin(), node.children.end(), [](const Node* child) { return is_expression(*child); });
}

bool contains(const Node& node, Kind kind) {
  return node.kind == kind || std::any_of(node.children.begin(), node.children.end(), [kind](const Node* child) { return contains(*child, kind); });
}

}  // namespace hone::rewards::math
