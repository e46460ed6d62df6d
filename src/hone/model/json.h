#pragma once
// JSON out of files that nobody vouches for: depth is bounded before parsing, repeated keys are refused.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hone::model {

/// Parses `text`, an object. UserError naming `where` when it is no JSON, is nested deeper than `max_depth`, or repeats a key.
nlohmann::json parse_json_object(std::string_view text, const std::string& where, int max_depth = 64);

/// Typed look-ups in a configuration object; a key that is null counts as absent, as in transformers and PEFT. Each gives `absent` where there is
/// nothing, and a UserError naming `where`, the key and the value found where it is of another type.
struct JsonFields {
  const nlohmann::json& object;
  const std::string& where;

  const nlohmann::json* find(const char* key) const;
  int64_t as_integer(const char* key, const nlohmann::json& value) const;
  int64_t integer(const char* key) const;  // must be there
  int64_t integer(const char* key, int64_t absent) const;
  double number(const char* key, double absent) const;
  bool boolean(const char* key, bool absent) const;
  std::string string(const char* key, const std::string& absent) const;
};

}  // namespace hone::model
