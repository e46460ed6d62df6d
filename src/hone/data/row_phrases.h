#pragma once
// How messages about rows say what was found.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "hone/data/json_scan.h"
#include "hone/data/rows.h"

namespace hone::data {

/// A JSON value in a few words.
inline std::string phrase(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::null:
      return "null";
    case nlohmann::json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    case nlohmann::json::value_t::string:
      return value.get_ref<const std::string&>().empty() ? "an empty string" : in_quotes(value.get_ref<const std::string&>());
    case nlohmann::json::value_t::array:
      return value.empty() ? "an empty list" : fmt::format("a list of {}", value.size());
    case nlohmann::json::value_t::object:
      return "an object";
    default:
      return "the number " + value.dump();
  }
}

/// The keys of an object, at most five, each cut to a readable length.
inline std::string key_phrase(const nlohmann::json& object) {
  if (object.empty()) return "no columns";
  std::string result = "columns ";
  int shown = 0;
  for (const auto& [key, value] : object.items()) {
    if (shown == 5) return result + fmt::format(" and {} more", object.size() - 5);
    result += (shown++ ? ", " : "") + in_quotes(key, 24);
  }
  return result;
}

/// The distinct roles of a conversation, at most five.
inline std::string role_phrase(const std::vector<Message>& messages) {
  std::vector<std::string> roles;
  for (const Message& message : messages)
    if (std::find(roles.begin(), roles.end(), message.role) == roles.end() && roles.size() < 5) roles.push_back(message.role);
  std::string result = roles.size() == 1 ? "only the role " : "the roles ";
  for (size_t i = 0; i < roles.size(); ++i) result += (i ? ", " : "") + in_quotes(roles[i], 24);
  return result;
}

/// The commands that train on a kind of row that some others refuse.
inline std::string trainers_of(RowKind kind) {
  switch (kind) {
    case RowKind::preference:
      return "hone dpo, reward, orpo, simpo and kto train on such rows";
    case RowKind::unpaired:
      return "hone kto trains on such rows";
    case RowKind::messages:
    case RowKind::prompt_completion:
    case RowKind::text:
      return "hone sft trains on such rows";
    case RowKind::prompt_only:
      return "";
  }
  return "";
}

}  // namespace hone::data
