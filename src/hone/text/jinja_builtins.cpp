#include "hone/text/jinja_builtins.h"

#include <algorithm>
#include <cstdlib>

#include "hone/base/error.h"
#include "hone/text/jinja_strings.h"

namespace hone::text::jinja {
namespace {

constexpr std::string_view filters[] = {"trim", "length", "count", "default", "d",      "tojson", "upper",   "lower", "capitalize", "title",
                                        "join", "first",  "last",  "list",    "string", "int",    "replace", "items", "safe"};
constexpr std::string_view tests[] = {"defined", "undefined", "none",  "string", "mapping", "iterable", "sequence", "boolean", "true",       "false",
                                      "number",  "integer",   "float", "odd",    "even",    "in",       "equalto",  "eq",      "divisibleby"};
constexpr std::string_view methods[] = {"strip", "lstrip",     "rstrip", "startswith", "endswith", "split", "replace", "upper",  "lower",
                                        "title", "capitalize", "find",   "count",      "get",      "items", "keys",    "values", "join"};
constexpr std::string_view functions[] = {"raise_exception", "namespace", "range", "dict"};

template <size_t N>
bool known(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

const Text& as_string(const Value& value, std::string_view what, int line) {
  if (value.kind != Kind::string) fail("chat template line {}: {} needs a string, found {}", line, what, kind_name(value));
  return *value.string;
}

int64_t as_integer(const Value& value, std::string_view what, int line) {
  if (value.kind != Kind::integer) fail("chat template line {}: {} needs a whole number, found {}", line, what, kind_name(value));
  return value.integer;
}

int64_t length(const Value& value, int line) {
  if (value.kind == Kind::undefined) return 0;
  if (value.kind == Kind::string) return code_points(value.string->bytes);
  if (value.kind == Kind::list) return static_cast<int64_t>(value.list->size());
  if (value.kind == Kind::dict && !value.dict->is_namespace) return static_cast<int64_t>(value.dict->items.size());
  fail("chat template line {}: {} has no length", line, kind_name(value));
}

Value join(const List& items, const Text& separator, int line) {
  constexpr size_t limit = size_t{1} << 24;
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(separator);
    out.append(to_text(items[i]));
    if (out.bytes.size() > limit) fail("chat template line {}: a string is longer than {} bytes", line, limit);
  }
  return make_string(std::move(out));
}

Value dict_items(const Value& value, int line) {
  if (value.kind == Kind::undefined) return make_list({});
  if (value.kind != Kind::dict) fail("chat template line {}: items needs a mapping, found {}", line, kind_name(value));
  List out;
  for (const auto& [key, item] : value.dict->items) out.push_back(make_list({make_string(key), item}));
  return make_list(std::move(out));
}

Value to_integer(const Value& value, const Arguments& arguments) {
  if (value.kind == Kind::integer) return value;
  if (value.kind == Kind::boolean) return make_int(value.boolean);
  if (value.kind == Kind::number && value.number > -9e15 && value.number < 9e15) return make_int(static_cast<int64_t>(value.number));
  if (value.kind == Kind::string) {
    const std::string text = strip(*value.string, nullptr, true, true).bytes;
    char* end = nullptr;
    const long long parsed = std::strtoll(text.c_str(), &end, 10);
    if (!text.empty() && text.size() < 19 && *end == '\0') return make_int(parsed);
  }
  const Value* fallback = arguments.get(0, "default");
  return fallback ? *fallback : make_int(0);
}

Value tojson(const Value& value, const Arguments& arguments) {
  arguments.limit("tojson", 1, {"indent", "ensure_ascii"});
  int indent = -1;
  if (const Value* ascii = arguments.get(9, "ensure_ascii"); ascii && truth(*ascii))
    fail("chat template line {}: tojson(ensure_ascii=true) is not supported", arguments.line);
  if (const Value* given = arguments.get(0, "indent"); given && given->kind != Kind::none)
    indent = static_cast<int>(std::clamp<int64_t>(as_integer(*given, "tojson", arguments.line), 0, 16));
  return make_string(to_json(value, indent));
}

Case case_of(const std::string& name) {
  return name == "upper" ? Case::upper : name == "lower" ? Case::lower : name == "title" ? Case::title : Case::capitalize;
}

Value replaced(const Text& text, const Arguments& arguments) {
  arguments.limit("replace", 3);
  if (arguments.positional.size() < 2) fail("chat template line {}: replace needs two strings", arguments.line);
  const Value* count = arguments.get(2, "");
  return make_string(replace(text, as_string(arguments.positional[0], "replace", arguments.line),
                             as_string(arguments.positional[1], "replace", arguments.line),
                             count ? as_integer(*count, "replace", arguments.line) : -1, arguments.line));
}

bool matches_any(const Text& text, const Arguments& arguments, bool start) {
  if (arguments.positional.size() != 1) fail("chat template line {}: startswith and endswith take one argument", arguments.line);
  const Value& wanted = arguments.positional[0];
  const List several = wanted.kind == Kind::list ? *wanted.list : List{wanted};
  return std::any_of(several.begin(), several.end(), [&](const Value& one) {
    const std::string& affix = as_string(one, "startswith", arguments.line).bytes;
    return start ? text.bytes.starts_with(affix) : text.bytes.ends_with(affix);
  });
}

Value string_method(const std::string& name, const Text& text, const Arguments& arguments) {
  const int line = arguments.line;
  const Value* first = arguments.get(0, "");
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    arguments.limit(name, 1);
    const std::string* characters = first && first->kind != Kind::none ? &as_string(*first, name, line).bytes : nullptr;
    return make_string(strip(text, characters, name != "rstrip", name != "lstrip"));
  }
  if (name == "startswith" || name == "endswith") return make_bool(matches_any(text, arguments, name == "startswith"));
  if (name == "split") {
    arguments.limit(name, 2, {"maxsplit"});
    const Value* most = arguments.get(1, "maxsplit");
    const bool spaces = !first || first->kind == Kind::none;
    if (!spaces && as_string(*first, name, line).bytes.empty()) fail("chat template line {}: split needs a separator", line);
    return make_list(split(text, spaces ? std::string_view() : std::string_view(first->string->bytes), most ? as_integer(*most, name, line) : -1));
  }
  if (name == "replace") return replaced(text, arguments);
  if (name == "join") {
    arguments.limit(name, 1);
    return join(first ? iterate(*first, line) : List{}, text, line);
  }
  if (name == "find" || name == "count") {
    arguments.limit(name, 1);
    if (!first || as_string(*first, name, line).bytes.empty()) fail("chat template line {}: {} needs a string", line, name);
    const std::string& wanted = first->string->bytes;
    if (name == "find") {
      const size_t at = text.bytes.find(wanted);
      return make_int(at == std::string::npos ? -1 : code_points(std::string_view(text.bytes).substr(0, at)));
    }
    int64_t count = 0;
    for (size_t at = text.bytes.find(wanted); at != std::string::npos; at = text.bytes.find(wanted, at + wanted.size())) ++count;
    return make_int(count);
  }
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    arguments.limit(name, 0);
    return make_string(change_case(text, case_of(name)));
  }
  fail("chat template line {}: a string has no method {}()", line, name);
}

}  // namespace

bool is_filter(std::string_view name) { return known(filters, name); }
bool is_test(std::string_view name) { return known(tests, name); }
bool is_method(std::string_view name) { return known(methods, name); }
bool is_function(std::string_view name) { return known(functions, name); }

const Value* Arguments::get(size_t place, std::string_view name) const {
  if (place < positional.size()) return &positional[place];
  for (const auto& [key, value] : keywords)
    if (key == name) return &value;
  return nullptr;
}

void Arguments::limit(std::string_view what, size_t most, std::initializer_list<std::string_view> names) const {
  if (positional.size() > most) fail("chat template line {}: {} takes at most {} arguments here", line, what, most);
  for (const auto& [key, value] : keywords)
    if (std::find(names.begin(), names.end(), key) == names.end()) fail("chat template line {}: {} does not take \"{}\" here", line, what, key);
}

Value apply_filter(const std::string& name, const Value& value, const Arguments& arguments) {
  const int line = arguments.line;
  const Value* first = arguments.get(0, "");
  if (name == "default" || name == "d") {
    arguments.limit(name, 2, {"default_value", "boolean"});
    const Value* falsy = arguments.get(1, "boolean");
    if (value.kind != Kind::undefined && !(falsy && truth(*falsy) && !truth(value))) return value;
    const Value* fallback = arguments.get(0, "default_value");
    return fallback ? *fallback : make_string("");
  }
  if (name == "tojson") return tojson(value, arguments);
  if (name == "int") {
    arguments.limit(name, 1, {"default"});
    return to_integer(value, arguments);
  }
  if (name == "replace") return replaced(to_text(value), arguments);
  if (name == "trim") {
    arguments.limit(name, 1);
    const std::string* characters = first && first->kind != Kind::none ? &as_string(*first, name, line).bytes : nullptr;
    return make_string(strip(to_text(value), characters, true, true));
  }
  if (name == "join") {
    arguments.limit(name, 1, {"d"});
    const Value* separator = arguments.get(0, "d");
    return join(iterate(value, line), separator ? to_text(*separator) : Text{}, line);
  }
  arguments.limit(name, 0);
  if (name == "length" || name == "count") return make_int(length(value, line));
  if (name == "string") return make_string(to_text(value));
  if (name == "safe") return value;
  if (name == "items") return dict_items(value, line);
  if (name == "list") return make_list(iterate(value, line));
  if (name == "first" || name == "last") {
    const List items = iterate(value, line);
    return items.empty() ? Value{} : name == "first" ? items.front() : items.back();
  }
  return make_string(change_case(to_text(value), case_of(name)));
}

bool apply_test(const std::string& name, const Value& value, const Arguments& arguments) {
  if (name == "in" || name == "equalto" || name == "eq" || name == "divisibleby") {
    arguments.limit(name, 1);
    if (arguments.positional.size() != 1) fail("chat template line {}: \"is {}\" needs an argument", arguments.line, name);
    const Value& other = arguments.positional[0];
    if (name == "in") return apply_compare("in", value, other, arguments.line);
    if (name != "divisibleby") return equal(value, other);
    return apply_binary("%", value, other, arguments.line).integer == 0;
  }
  arguments.limit(name, 0);
  if (name == "defined") return value.kind != Kind::undefined;
  if (name == "undefined") return value.kind == Kind::undefined;
  if (name == "none") return value.kind == Kind::none;
  if (name == "string") return value.kind == Kind::string;
  if (name == "mapping") return value.kind == Kind::dict;
  if (name == "iterable" || name == "sequence")  // an undefined value is both for Jinja
    return value.kind == Kind::undefined || value.kind == Kind::string || value.kind == Kind::list || value.kind == Kind::dict;
  if (name == "boolean") return value.kind == Kind::boolean;
  if (name == "true" || name == "false") return value.kind == Kind::boolean && value.boolean == (name == "true");
  if (name == "number") return is_numeric(value);
  if (name == "integer") return value.kind == Kind::integer;
  if (name == "float") return value.kind == Kind::number;
  const Value rest = apply_binary("%", value, make_int(2), arguments.line);  // odd, even
  return (as_number(rest) != 0) == (name == "odd");
}

Value call_method(const std::string& name, const Value& object, const Arguments& arguments) {
  const int line = arguments.line;
  if (object.kind == Kind::string) return string_method(name, *object.string, arguments);
  if (object.kind == Kind::dict && !object.dict->is_namespace) {
    if (name == "items") return dict_items(object, line);
    if (name == "keys") return make_list(iterate(object, line));
    if (name == "values") {
      List out;
      for (const auto& [key, item] : object.dict->items) out.push_back(item);
      return make_list(std::move(out));
    }
    if (name == "get") {
      arguments.limit(name, 2);
      if (arguments.positional.empty()) fail("chat template line {}: get needs a key", line);
      const Value found = get_item(object, arguments.positional[0], line);
      if (found.kind != Kind::undefined) return found;
      return arguments.positional.size() > 1 ? arguments.positional[1] : make_none();
    }
  }
  fail("chat template line {}: {} has no method {}()", line, kind_name(object), name);
}

Value call_function(const std::string& name, const Arguments& arguments) {
  const int line = arguments.line;
  if (name == "raise_exception") {
    const std::string message = arguments.positional.empty() ? "" : to_text(arguments.positional[0]).bytes;
    fail("the chat template refuses this conversation (line {}): {}", line, message);
  }
  if (name == "range") {
    arguments.limit(name, 3);
    if (arguments.positional.empty()) fail("chat template line {}: range needs a number", line);
    int64_t numbers[3] = {0, 0, 1};
    const size_t given = arguments.positional.size();
    for (size_t i = 0; i < given; ++i) numbers[given == 1 ? 1 : i] = as_integer(arguments.positional[i], name, line);
    const auto [first, last, step] = numbers;
    if (step == 0) fail("chat template line {}: range with step 0", line);
    List out;
    for (__int128 i = first; step > 0 ? i < last : i > last; i += step) {
      if (out.size() >= 100000) fail("chat template line {}: range over more than 100000 numbers", line);
      out.push_back(make_int(static_cast<int64_t>(i)));
    }
    return make_list(std::move(out));
  }
  arguments.limit(name, 0, {});
  return {};
}

}  // namespace hone::text::jinja
