#pragma once
// Reading JSON files that may be hostile: nesting is bounded and a repeated key is an error. Private to this layer.
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hone::text {

/// Parses `text`; UserError naming `source` when it is not JSON, is nested deeper than 64, or repeats a key within an object.
nlohmann::json parse_json_strictly(std::string_view text, const std::string& source);

}  // namespace hone::text
