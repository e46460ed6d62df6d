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

}  // namespace hone::model
