#pragma once
// Filters, tests, methods and operators of the Jinja interpreter. Private to it.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hone/text/jinja_value.h"

namespace hone::text::jinja {

bool is_filter(std::string_view name);
bool is_test(std::string_view name);
bool is_method(std::string_view name);
bool is_function(std::string_view name);

/// Evaluated arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
  int line = 1;
  /// The argument at this place or with this name; null when it is not given.
  const Value* get(size_t place, std::string_view name) const;
  /// Throws when more than `most` positional arguments are given or a keyword is not one of `names`.
  void limit(std::string_view what, size_t most, std::initializer_list<std::string_view> names = {}) const;
};

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments);
bool apply_test(const std::string& name, const Value& value, const Arguments& arguments);
Value call_method(const std::string& name, const Value& object, const Arguments& arguments);
Value call_function(const std::string& name, const Arguments& arguments);
Value apply_binary(const std::string& op, const Value& left, const Value& right, int line);
bool apply_compare(const std::string& op, const Value& left, const Value& right, int line);
/// Python's container[first:last:step] of lists and strings (null = absent).
Value slice(const Value& container, const Value* first, const Value* last, const Value* step, int line);
/// container[key] and container.key; undefined when there is none.
Value get_item(const Value& container, const Value& key, int line);
/// What a for loop goes over: list items, mapping keys, characters.
List iterate(const Value& value, int line);

}  // namespace hone::text::jinja
