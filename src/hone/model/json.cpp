#include "hone/model/json.h"

#include <set>
#include <vector>

#include "hone/base/error.h"

namespace hone::model {
namespace {

// Deepest nesting of brackets outside strings: what the parser and the destructor will have to walk.
int nesting_depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

nlohmann::json parse_json_object(std::string_view text, const std::string& where, int max_depth) {
  const int depth = nesting_depth(text);
  if (depth > max_depth) fail("{}: JSON is nested {} levels deep, at most {} are read", where, depth, max_depth);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto on_event = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end && !keys.empty()) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second)
      fail("{}: the key \"{}\" stands twice in one object", where, value.get<std::string>());
    return true;
  };
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(text.begin(), text.end(), on_event);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}", where, error.what());
  }
  if (!json.is_object()) fail("{}: a JSON object was expected, found {}", where, json.type_name());
  return json;
}

const nlohmann::json* JsonFields::find(const char* key) const {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

int64_t JsonFields::as_integer(const char* key, const nlohmann::json& value) const {
  if (value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)))
    return value.get<int64_t>();
  fail("{}: {} is {}, a whole number was expected", where, key, value.dump());
}

int64_t JsonFields::integer(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) fail("{}: {} is missing", where, key);
  return as_integer(key, *value);
}

int64_t JsonFields::integer(const char* key, int64_t absent) const {
  const nlohmann::json* value = find(key);
  return value == nullptr ? absent : as_integer(key, *value);
}

double JsonFields::number(const char* key, double absent) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_number()) fail("{}: {} is {}, a number was expected", where, key, value->dump());
  return value->get<double>();
}

bool JsonFields::boolean(const char* key, bool absent) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_boolean()) fail("{}: {} is {}, true or false was expected", where, key, value->dump());
  return value->get<bool>();
}

std::string JsonFields::string(const char* key, const std::string& absent) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_string()) fail("{}: {} is {}, a string was expected", where, key, value->dump());
  return value->get<std::string>();
}

}  // namespace hone::model
