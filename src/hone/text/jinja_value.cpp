#include "hone/text/jinja_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"

namespace hone::text::jinja {

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : items)
    if (name == key) return &value;
  return nullptr;
}

void Dict::set(const std::string& key, Value value) {
  for (auto& [name, old] : items)
    if (name == key) {
      old = std::move(value);
      return;
    }
  items.emplace_back(key, std::move(value));
}

Value make_none() {
  Value out;
  out.kind = Kind::none;
  return out;
}

Value make_bool(bool value) {
  Value out;
  out.kind = Kind::boolean;
  out.boolean = value;
  return out;
}

Value make_int(int64_t value) {
  Value out;
  out.kind = Kind::integer;
  out.integer = value;
  return out;
}

Value make_number(double value) {
  Value out;
  out.kind = Kind::number;
  out.number = value;
  return out;
}

Value make_string(Text text) {
  Value out;
  out.kind = Kind::string;
  out.string = std::make_shared<const Text>(std::move(text));
  return out;
}

Value make_string(std::string_view bytes, int32_t origin) {
  Text text;
  text.append(bytes, origin);
  return make_string(std::move(text));
}

namespace {

void account(Value& parent, const Value& child) {
  constexpr int32_t max_depth = 100, max_weight = 1 << 22;
  parent.depth = std::max(parent.depth, child.depth + 1);
  parent.weight += child.weight;
  if (parent.depth > max_depth) fail("chat template: a value is nested deeper than {} levels", max_depth);
  if (parent.weight > max_weight) fail("chat template: a list or mapping holds more than {} values", max_weight);
}

}  // namespace

Value make_list(List list) {
  Value out;
  out.kind = Kind::list;
  for (const Value& item : list) account(out, item);
  out.list = std::make_shared<List>(std::move(list));
  return out;
}

Value make_dict(Dict dict) {
  Value out;
  out.kind = Kind::dict;
  for (const auto& [key, item] : dict.items) account(out, item);
  out.dict = std::make_shared<Dict>(std::move(dict));
  return out;
}

// Recursion is bounded by the JSON reader's nesting limit.
Value from_json(const nlohmann::json& value, int32_t origin) {
  Value out;
  switch (value.type()) {
    case nlohmann::json::value_t::boolean:
      out = make_bool(value.get<bool>());
      break;
    case nlohmann::json::value_t::number_integer:
      out = make_int(value.get<int64_t>());
      break;
    case nlohmann::json::value_t::number_unsigned:
      out = value.get<uint64_t>() > INT64_MAX ? make_number(value.get<double>()) : make_int(value.get<int64_t>());
      break;
    case nlohmann::json::value_t::number_float:
      out = make_number(value.get<double>());
      break;
    case nlohmann::json::value_t::string:
      return make_string(value.get_ref<const std::string&>(), origin);
    case nlohmann::json::value_t::array: {
      List list;
      for (const auto& item : value) list.push_back(from_json(item, origin));
      return make_list(std::move(list));
    }
    case nlohmann::json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : value.items()) dict.items.emplace_back(key, from_json(item, origin));
      return make_dict(std::move(dict));
    }
    default:
      return make_none();
  }
  out.origin = origin;
  return out;
}

bool truth(const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
      return value.boolean;
    case Kind::integer:
      return value.integer != 0;
    case Kind::number:
      return value.number != 0;
    case Kind::string:
      return !value.string->bytes.empty();
    case Kind::list:
      return !value.list->empty();
    case Kind::dict:
      return value.dict->is_namespace || !value.dict->items.empty();
  }
  return false;
}

bool is_numeric(const Value& value) { return value.kind == Kind::boolean || value.kind == Kind::integer || value.kind == Kind::number; }

double as_number(const Value& value) {
  if (value.kind == Kind::boolean) return value.boolean ? 1 : 0;
  return value.kind == Kind::integer ? static_cast<double>(value.integer) : value.number;
}

bool equal(const Value& a, const Value& b) {
  if (is_numeric(a) && is_numeric(b)) {
    if (a.kind == Kind::integer && b.kind == Kind::integer) return a.integer == b.integer;
    return as_number(a) == as_number(b);
  }
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::string:
      return a.string->bytes == b.string->bytes;
    case Kind::list:
      if (a.list == b.list) return true;
      if (a.list->size() != b.list->size()) return false;
      for (size_t i = 0; i < a.list->size(); ++i)
        if (!equal((*a.list)[i], (*b.list)[i])) return false;
      return true;
    case Kind::dict:
      if (a.dict == b.dict) return true;
      if (a.dict->is_namespace || b.dict->is_namespace || a.dict->items.size() != b.dict->items.size()) return false;
      for (const auto& [key, value] : a.dict->items) {
        const Value* other = b.dict->find(key);
        if (!other || !equal(value, *other)) return false;
      }
      return true;
    default:
      return true;  // undefined and none equal themselves
  }
}

const char* kind_name(const Value& value) {
  switch (value.kind) {
    case Kind::undefined:
      return "undefined";
    case Kind::none:
      return "none";
    case Kind::boolean:
      return "boolean";
    case Kind::integer:
    case Kind::number:
      return "number";
    case Kind::string:
      return "string";
    case Kind::list:
      return "list";
    case Kind::dict:
      return value.dict->is_namespace ? "namespace" : "mapping";
  }
  return "?";
}

namespace {

std::string number_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  std::string out = fmt::format("{}", value);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

void append_json_string(Text& out, const Text& text) {
  out.append("\"", no_origin);
  for (size_t i = 0; i < text.bytes.size(); ++i) {
    const char c = text.bytes[i];
    const int32_t from = text.origin[i];
    switch (c) {
      case '"':
        out.append("\\\"", from);
        break;
      case '\\':
        out.append("\\\\", from);
        break;
      case '\n':
        out.append("\\n", from);
        break;
      case '\r':
        out.append("\\r", from);
        break;
      case '\t':
        out.append("\\t", from);
        break;
      case '\b':
        out.append("\\b", from);
        break;
      case '\f':
        out.append("\\f", from);
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          out.append(fmt::format("\\u{:04x}", static_cast<int>(c)), from);
        else
          out.append(std::string_view(&c, 1), from);
    }
  }
  out.append("\"", no_origin);
}

void append_json(Text& out, const Value& value, int indent, int level) {
  const auto line = [&](int depth) {
    if (indent < 0) return;
    out.append("\n", no_origin);
    out.append(std::string(static_cast<size_t>(indent * depth), ' '), no_origin);
  };
  const std::string_view comma = indent >= 0 ? "," : ", ";
  switch (value.kind) {
    case Kind::undefined:
      fail("chat template: an undefined value cannot be written as JSON");
    case Kind::none:
      return out.append("null", value.origin);
    case Kind::boolean:
      return out.append(value.boolean ? "true" : "false", value.origin);
    case Kind::integer:
      return out.append(std::to_string(value.integer), value.origin);
    case Kind::number:
      return out.append(number_text(value.number), value.origin);
    case Kind::string:
      return append_json_string(out, *value.string);
    case Kind::list:
      out.append("[", no_origin);
      for (size_t i = 0; i < value.list->size(); ++i) {
        if (i > 0) out.append(comma, no_origin);
        line(level + 1);
        append_json(out, (*value.list)[i], indent, level + 1);
      }
      if (!value.list->empty()) line(level);
      return out.append("]", no_origin);
    case Kind::dict:
      out.append("{", no_origin);
      for (size_t i = 0; i < value.dict->items.size(); ++i) {
        if (i > 0) out.append(comma, no_origin);
        line(level + 1);
        Text key;
        key.append(value.dict->items[i].first, no_origin);
        append_json_string(out, key);
        out.append(": ", no_origin);
        append_json(out, value.dict->items[i].second, indent, level + 1);
      }
      if (!value.dict->items.empty()) line(level);
      return out.append("}", no_origin);
  }
}

}  // namespace

Text to_json(const Value& value, int indent) {
  Text out;
  append_json(out, value, indent, 0);
  return out;
}

Text to_text(const Value& value) {
  Text out;
  switch (value.kind) {
    case Kind::undefined:
      break;
    case Kind::none:
      out.append("None", value.origin);
      break;
    case Kind::boolean:
      out.append(value.boolean ? "True" : "False", value.origin);
      break;
    case Kind::integer:
      out.append(std::to_string(value.integer), value.origin);
      break;
    case Kind::number:
      out.append(number_text(value.number), value.origin);
      break;
    case Kind::string:
      return *value.string;
    case Kind::list:
    case Kind::dict:
      fail("chat template: printing a {} as it is is not supported (use tojson)", kind_name(value));
  }
  return out;
}

int64_t code_points(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

size_t code_point_offset(std::string_view text, int64_t n) {
  size_t at = 0;
  for (; at < text.size(); ++at)
    if ((static_cast<unsigned char>(text[at]) & 0xC0) != 0x80 && n-- == 0) return at;
  return at;
}

}  // namespace hone::text::jinja
