#pragma once
// UTF-8 and the character classes that pre-tokenizers ask for (Unicode categories by utf8proc).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hone::text {

/// Length of the valid UTF-8 sequence at `at` (1 to 4), 0 when there is none. Surrogates and over-long forms are invalid.
int utf8_length(std::string_view text, size_t at);
/// The code point of the valid sequence of `length` bytes at `at`.
uint32_t utf8_code(std::string_view text, size_t at, int length);
/// Offset of the first byte that is not part of valid UTF-8, or npos.
size_t utf8_invalid_at(std::string_view text);
/// Appends the UTF-8 form of a code point.
void utf8_append(std::string& out, uint32_t code);

enum class CharClass : uint8_t { letter, number, space, other };  // \p{L}, \p{N}, \s, the rest
CharClass char_class(uint32_t code);
/// \w of Unicode regular expressions (letters, marks, decimal and letter numbers, connectors, joiners).
bool is_word_char(uint32_t code);

/// One step over valid UTF-8.
struct CodePoint {
  uint32_t code;
  int length;
};
inline CodePoint code_at(std::string_view text, size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) return {byte, 1};
  const int length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
  return {utf8_code(text, at, length), length};
}

/// GPT-2's printable stand-in (a code point below 0x144) for each byte.
const uint32_t* byte_to_char();
/// The byte behind a stand-in, -1 when the code point is none.
int char_to_byte(uint32_t code);

}  // namespace hone::text
