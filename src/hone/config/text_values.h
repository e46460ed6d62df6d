#pragma once
// Small readers and writers of values as text, shared by the config sources.
#include <optional>
#include <string>
#include <string_view>

namespace hone::config {

/// The name with `-` written as `_`.
std::string normal_name(std::string_view name);
/// The text for a message: control characters escaped, at most 60 bytes.
std::string printable(std::string_view text);
/// The same in quotes.
std::string shown(std::string_view text);
bool is_utf8(std::string_view text);
/// true, True, false or False; empty for anything else.
std::optional<bool> bool_value(std::string_view text);
/// Seconds of "90s", "20m", "1h30m"; UserError naming `where` otherwise.
double parse_duration(std::string_view text, const std::string& where);
/// The shortest text that parse_duration reads back.
std::string duration_text(double seconds);

}  // namespace hone::config
