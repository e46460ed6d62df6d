// Operators, comparison, slicing, indexing and iteration of Jinja values: Python's rules.
#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/text/jinja_builtins.h"
#include "hone/text/utf8.h"

namespace hone::text::jinja {
namespace {

constexpr size_t max_list = size_t{1} << 20;
constexpr size_t max_string = size_t{1} << 24;

int64_t floor_divide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

Value arithmetic(const std::string& op, const Value& left, const Value& right, int line) {
  const double a = as_number(left), b = as_number(right);
  if ((op == "/" || op == "//" || op == "%") && b == 0) fail("chat template line {}: division by zero", line);
  const bool whole = left.kind != Kind::number && right.kind != Kind::number && op != "/";
  if (!whole) {
    if (op == "+") return make_number(a + b);
    if (op == "-") return make_number(a - b);
    if (op == "*") return make_number(a * b);
    if (op == "/") return make_number(a / b);
    if (op == "//") return make_number(std::floor(a / b));
    return make_number(a - std::floor(a / b) * b);
  }
  const int64_t x = left.kind == Kind::boolean ? left.boolean : left.integer;
  const int64_t y = right.kind == Kind::boolean ? right.boolean : right.integer;
  int64_t out = 0;
  bool overflow = false;
  if (op == "+")
    overflow = __builtin_add_overflow(x, y, &out);
  else if (op == "-")
    overflow = __builtin_sub_overflow(x, y, &out);
  else if (op == "*")
    overflow = __builtin_mul_overflow(x, y, &out);
  else if (x == INT64_MIN && y == -1)
    overflow = op == "//";
  else
    out = op == "//" ? floor_divide(x, y) : x - floor_divide(x, y) * y;
  if (overflow) fail("chat template line {}: {} {} {} is out of range", line, x, op, y);
  return make_int(out);
}

// Where slice positions start, end and step, as Python normalises them.
struct Range {
  int64_t first, last, step;
};

Range python_range(int64_t size, const Value* first, const Value* last, const Value* step, int line) {
  const auto whole = [&](const Value* value, int64_t fallback) {
    if (!value || value->kind == Kind::none) return fallback;
    if (value->kind != Kind::integer) fail("chat template line {}: a slice needs whole numbers, found {}", line, kind_name(*value));
    return value->integer;
  };
  Range out{};
  out.step = whole(step, 1);
  if (out.step == 0) fail("chat template line {}: a slice's step is 0", line);
  const bool back = out.step < 0;
  const auto place = [&](int64_t at) {
    if (at < 0) at = std::max<int64_t>(at, -size - 1) + size;
    return std::clamp<int64_t>(at, back ? -1 : 0, back ? size - 1 : size);
  };
  out.first = first && first->kind != Kind::none ? place(whole(first, 0)) : back ? size - 1 : 0;
  out.last = last && last->kind != Kind::none ? place(whole(last, 0)) : back ? -1 : size;
  return out;
}

template <class Take>
void each(const Range& range, Take take) {
  if (range.step > 0)
    for (int64_t i = range.first; i < range.last; i += std::min(range.step, range.last - i)) take(i);
  else
    for (int64_t i = range.first; i > range.last; i += std::max(range.step, range.last - i)) take(i);
}

std::vector<size_t> code_point_offsets(const std::string& text) {
  std::vector<size_t> out;
  for (size_t at = 0; at < text.size(); at += static_cast<size_t>(code_at(text, at).length)) out.push_back(at);
  out.push_back(text.size());
  return out;
}

}  // namespace

Value apply_binary(const std::string& op, const Value& left, const Value& right, int line) {
  if (op == "~" || (op == "+" && left.kind == Kind::string && right.kind == Kind::string)) {
    const Text tail = to_text(right);
    Text out = to_text(left);
    if (out.bytes.size() + tail.bytes.size() > max_string) fail("chat template line {}: a string is longer than {} bytes", line, max_string);
    out.append(tail);
    return make_string(std::move(out));
  }
  if (is_numeric(left) && is_numeric(right)) return arithmetic(op, left, right, line);
  if (op == "+" && left.kind == Kind::list && right.kind == Kind::list) {
    if (left.list->size() + right.list->size() > max_list) fail("chat template line {}: a list is longer than {}", line, max_list);
    List out = *left.list;
    out.insert(out.end(), right.list->begin(), right.list->end());
    return make_list(std::move(out));
  }
  if (op == "*" && left.kind == Kind::string && right.kind == Kind::integer) {
    const auto times = static_cast<uint64_t>(std::max<int64_t>(0, right.integer));
    if (times > max_string || left.string->bytes.size() * times > max_string)
      fail("chat template line {}: a string is longer than {} bytes", line, max_string);
    Text out;
    for (uint64_t i = 0; i < times && !left.string->bytes.empty(); ++i) out.append(*left.string);
    return make_string(std::move(out));
  }
  fail("chat template line {}: {} {} {} is not possible", line, kind_name(left), op, kind_name(right));
}

bool apply_compare(const std::string& op, const Value& left, const Value& right, int line) {
  if (op == "==") return equal(left, right);
  if (op == "!=") return !equal(left, right);
  if (op == "in" || op == "not in") {
    bool found = false;
    if (right.kind == Kind::string && left.kind == Kind::string)
      found = right.string->bytes.find(left.string->bytes) != std::string::npos;
    else if (right.kind == Kind::list)
      found = std::any_of(right.list->begin(), right.list->end(), [&](const Value& item) { return equal(item, left); });
    else if (right.kind == Kind::dict)
      found = left.kind == Kind::string && right.dict->find(left.string->bytes);
    else if (right.kind != Kind::undefined)
      fail("chat template line {}: \"in\" needs a string, list or mapping, found {}", line, kind_name(right));
    return found == (op == "in");
  }
  int order = 0;
  if (is_numeric(left) && is_numeric(right)) {
    const double a = as_number(left), b = as_number(right);
    order = a < b ? -1 : a > b;
  } else if (left.kind == Kind::string && right.kind == Kind::string) {
    order = left.string->bytes.compare(right.string->bytes);
  } else {
    fail("chat template line {}: {} {} {} cannot be compared", line, kind_name(left), op, kind_name(right));
  }
  return op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
}

Value slice(const Value& container, const Value* first, const Value* last, const Value* step, int line) {
  if (container.kind == Kind::list) {
    List out;
    each(python_range(static_cast<int64_t>(container.list->size()), first, last, step, line),
         [&](int64_t i) { out.push_back((*container.list)[static_cast<size_t>(i)]); });
    return make_list(std::move(out));
  }
  if (container.kind == Kind::string) {
    const auto offsets = code_point_offsets(container.string->bytes);
    Text out;
    each(python_range(static_cast<int64_t>(offsets.size()) - 1, first, last, step, line),
         [&](int64_t i) { out.append(*container.string, offsets[static_cast<size_t>(i)], offsets[static_cast<size_t>(i) + 1]); });
    return make_string(std::move(out));
  }
  if (container.kind == Kind::undefined) return {};
  fail("chat template line {}: {} cannot be sliced", line, kind_name(container));
}

Value get_item(const Value& container, const Value& key, int line) {
  if (container.kind == Kind::undefined) fail("chat template line {}: an undefined value has no members", line);
  if (container.kind == Kind::dict && key.kind == Kind::string) {
    const Value* found = container.dict->find(key.string->bytes);
    return found ? *found : Value{};
  }
  if (key.kind == Kind::integer && container.kind == Kind::list) {
    const auto size = static_cast<int64_t>(container.list->size());
    const int64_t at = key.integer < 0 ? key.integer + size : key.integer;
    return at >= 0 && at < size ? (*container.list)[static_cast<size_t>(at)] : Value{};
  }
  if (key.kind == Kind::integer && container.kind == Kind::string) {
    const std::string& text = container.string->bytes;
    const int64_t size = code_points(text);
    const int64_t at = key.integer < 0 ? key.integer + size : key.integer;
    if (at < 0 || at >= size) return {};
    return make_string(container.string->part(code_point_offset(text, at), code_point_offset(text, at + 1)));
  }
  return {};
}

List iterate(const Value& value, int line) {
  switch (value.kind) {
    case Kind::undefined:
      return {};
    case Kind::list:
      return *value.list;
    case Kind::dict: {
      List out;
      for (const auto& [key, item] : value.dict->items) out.push_back(make_string(key));
      return out;
    }
    case Kind::string: {
      const auto offsets = code_point_offsets(value.string->bytes);
      if (offsets.size() > max_list) fail("chat template line {}: more than {} steps of a loop", line, max_list);
      List out;
      for (size_t i = 0; i + 1 < offsets.size(); ++i) out.push_back(make_string(value.string->part(offsets[i], offsets[i + 1])));
      return out;
    }
    default:
      fail("chat template line {}: a loop cannot go over {}", line, kind_name(value));
  }
}

}  // namespace hone::text::jinja
