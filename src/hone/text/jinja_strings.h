#pragma once
// String work of the Jinja interpreter that keeps the origin of every byte. Private to it.
#include <string_view>

#include "hone/text/jinja_value.h"

namespace hone::text::jinja {

/// Python's strip of the characters in `characters` (null: white space) on the chosen sides.
Text strip(const Text& text, const std::string* characters, bool left, bool right);
/// Python's split; an empty separator means runs of white space. `most` < 0: no limit.
List split(const Text& text, std::string_view separator, int64_t most);
/// Python's replace; `most` < 0: all. UserError when the result passes 16 MiB.
Text replace(const Text& text, const Text& from, const Text& to, int64_t most, int line);

enum class Case { upper, lower, capitalize, title };
Text change_case(const Text& text, Case wanted);

}  // namespace hone::text::jinja
