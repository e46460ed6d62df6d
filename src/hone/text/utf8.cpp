#include "hone/text/utf8.h"

#include <utf8proc.h>

#include <array>

#include "hone/text/tokenizer.h"

namespace hone::text {
namespace {

bool is_white_space(uint32_t code) {
  return (code >= 9 && code <= 13) || code == 32 || code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
         code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

CharClass classify(uint32_t code) {
  if (is_white_space(code)) return CharClass::space;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return CharClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return CharClass::number;
    default:
      return CharClass::other;
  }
}

struct ByteChars {
  std::array<uint32_t, 256> to_char{};
  std::array<int, 0x144> to_byte{};
  ByteChars() {
    to_byte.fill(-1);
    uint32_t next = 256;  // bytes without a printable Latin-1 character of their own take the code points from 256 up
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      to_char[byte] = printable ? byte : next++;
      to_byte[to_char[byte]] = static_cast<int>(byte);
    }
  }
};

const ByteChars& byte_chars() {
  static const ByteChars table;
  return table;
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

int utf8_length(std::string_view text, size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) return 1;
  const int length = byte >= 0xF5 ? 0 : byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 0;
  if (length == 0 || text.size() - at < static_cast<size_t>(length)) return 0;
  for (int i = 1; i < length; ++i)
    if (!is_continuation(text[at + i])) return 0;
  const uint32_t code = utf8_code(text, at, length);
  const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return 0;
  return length;
}

uint32_t utf8_code(std::string_view text, size_t at, int length) {
  const auto byte = [&](int i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i])); };
  switch (length) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    case 3:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    default:
      return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
  }
}

size_t utf8_invalid_at(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const int length = utf8_length(text, at);
    if (length == 0) return at;
    at += static_cast<size_t>(length);
  }
  return std::string_view::npos;
}

void utf8_append(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

CharClass char_class(uint32_t code) {
  static const auto latin = [] {
    std::array<CharClass, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) table[i] = classify(i);
    return table;
  }();
  return code < 256 ? latin[code] : classify(code);
}

bool is_word_char(uint32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return code == 0x200C || code == 0x200D;
  }
}

const uint32_t* byte_to_char() { return byte_chars().to_char.data(); }

int char_to_byte(uint32_t code) { return code < byte_chars().to_byte.size() ? byte_chars().to_byte[code] : -1; }

// The rule of the Unicode standard (and of Rust's and Python's decoders): one U+FFFD per maximal prefix of a valid sequence.
std::string utf8_lossy(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const int length = utf8_length(bytes, at);
    if (length > 0) {
      out.append(bytes.substr(at, static_cast<size_t>(length)));
      at += static_cast<size_t>(length);
      continue;
    }
    out += "\xEF\xBF\xBD";
    const auto first = static_cast<unsigned char>(bytes[at++]);
    const int wanted = first >= 0xF0 && first <= 0xF4 ? 3 : first >= 0xE0 && first < 0xF0 ? 2 : 0;
    for (int i = 0; i < wanted && at < bytes.size() && is_continuation(bytes[at]); ++i, ++at) {
      const auto byte = static_cast<unsigned char>(bytes[at]);
      const bool impossible = i == 0 && ((first == 0xE0 && byte < 0xA0) || (first == 0xED && byte > 0x9F) || (first == 0xF0 && byte < 0x90) ||
                                         (first == 0xF4 && byte > 0x8F));
      if (impossible) break;
    }
  }
  return out;
}

}  // namespace hone::text
