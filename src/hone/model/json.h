#pragma once
// JSON out of files that nobody vouches for: depth is bounded before parsing, repeated keys are refused.
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hone::model {

/// Parses `text`, an object. UserError naming `where` when it is no JSON, is nested deeper than `max_depth`, or repeats a key.
nlohmann::json parse_json_object(std::string_view text, const std::string& where, int max_depth = 64);

}  // namespace hone::model
