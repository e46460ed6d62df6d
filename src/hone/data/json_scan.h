#pragma once
// One pass over the bytes of a JSON document before it is parsed: what a parser would overflow on or quietly accept.
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace hone::data {

/// Deeper nesting than this is refused: JSON values are printed and walked by recursion.
inline constexpr int deepest_json = 64;

struct ScanFault {
  std::string kind;   // slug for RowError
  size_t offset = 0;  // byte in the text, from 0
  std::string found, wanted;
};

/// The byte offset of the first invalid UTF-8 sequence (overlong forms, surrogates and values above U+10FFFF are invalid).
std::optional<size_t> find_invalid_utf8(std::string_view text);

/// Invalid UTF-8, NUL bytes, nesting deeper than deepest_json, or a key that stands twice in one object (a parser keeps one of the two
/// and says nothing). Syntax is left to the parser.
std::optional<ScanFault> scan_json(std::string_view text);

/// At most `most` bytes of the text, whole characters, quoted and escaped so that it fits into one line.
std::string in_quotes(std::string_view text, size_t most = 40);

}  // namespace hone::data
