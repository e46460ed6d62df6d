#include "hone/data/json_scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace hone::data {
namespace {

/// The length of the valid UTF-8 sequence at text[i], or 0. Ranges of the second byte: table 3-7 of the Unicode standard.
size_t utf8_length(std::string_view text, size_t i) {
  const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  const auto tail = [](unsigned b) { return (b & 0xC0) == 0x80; };
  if (first >= 0xC2 && first <= 0xDF) return tail(second) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned low = first == 0xE0 ? 0xA0 : 0x80, high = first == 0xED ? 0x9F : 0xBF;
    return second >= low && second <= high && tail(byte(2)) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned low = first == 0xF0 ? 0x90 : 0x80, high = first == 0xF4 ? 0x8F : 0xBF;
    return second >= low && second <= high && tail(byte(2)) && tail(byte(3)) ? 4 : 0;
  }
  return 0;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/// The containers that are open, and the keys seen in each open object.
class Nesting {
 public:
  int depth() const { return static_cast<int>(open_.size()); }
  bool in_object() const { return !open_.empty() && open_.back().object; }
  void open(bool object) { open_.push_back({object, keys_.size()}); }
  void add_key(std::string_view key) { keys_.push_back(key); }

  /// Closes the innermost container; the key that stood twice in it, if one did.
  std::optional<std::string_view> close() {
    if (open_.empty()) return {};
    const auto begin = keys_.begin() + static_cast<std::ptrdiff_t>(open_.back().first_key);
    std::sort(begin, keys_.end());
    const auto twice = std::adjacent_find(begin, keys_.end());
    std::optional<std::string_view> result;
    if (twice != keys_.end()) result = *twice;
    keys_.erase(begin, keys_.end());
    open_.pop_back();
    return result;
  }

 private:
  struct Container {
    bool object;
    size_t first_key;
  };
  std::vector<Container> open_;
  std::vector<std::string_view> keys_;
};

/// The offset behind the string that begins at text[i] == '"' (the end of the text where it does not end).
size_t end_of_string(std::string_view text, size_t i) {
  for (++i; i < text.size(); ++i) {
    if (text[i] == '\\')
      ++i;
    else if (text[i] == '"')
      return i + 1;
  }
  return text.size();
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    if (i + sizeof eight <= text.size()) {  // mostly ASCII: eight bytes at a time
      std::memcpy(&eight, text.data() + i, sizeof eight);
      if ((eight & 0x8080808080808080) == 0) {
        i += sizeof eight;
        continue;
      }
    }
    const size_t length = utf8_length(text, i);
    if (length == 0) return i;
    i += length;
  }
  return {};
}

std::optional<ScanFault> scan_json(std::string_view text) {
  if (const auto bad = find_invalid_utf8(text)) {
    return ScanFault{"invalid-utf8", *bad, fmt::format("byte 0x{:02x}, which is not UTF-8", static_cast<unsigned char>(text[*bad])), "UTF-8 text"};
  }
  Nesting nesting;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\0') return ScanFault{"nul-byte", i, "a NUL byte", "JSON text"};
    if (c == '{' || c == '[') {
      if (nesting.depth() == deepest_json)
        return ScanFault{"too-deep", i, fmt::format("more than {} nested lists or objects", deepest_json), fmt::format("at most {}", deepest_json)};
      nesting.open(c == '{');
    } else if (c == '}' || c == ']') {
      if (const auto key = nesting.close())
        return ScanFault{"duplicate-key", i, fmt::format("the key {} twice in one object", in_quotes(*key)), "each key once"};
    } else if (c == '"') {
      const size_t end = end_of_string(text, i);
      size_t next = end;
      while (next < text.size() && is_space(text[next])) ++next;
      if (nesting.in_object() && next < text.size() && text[next] == ':') nesting.add_key(text.substr(i + 1, end - i - 2));
      i = end - 1;
    }
  }
  return {};
}

std::string in_quotes(std::string_view text, size_t most) {
  std::string result = "\"";
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    if (i + std::max<size_t>(length, 1) > most) return result + "…\"";
    const unsigned char c = static_cast<unsigned char>(text[i]);
    if (length == 0 || c < 0x20 || c == 0x7F)
      result += fmt::format("\\x{:02x}", c);
    else if (c == '"' || c == '\\')
      result += {'\\', static_cast<char>(c)};
    else
      result += text.substr(i, length);
    i += std::max<size_t>(length, 1);
  }
  return result + "\"";
}

}  // namespace hone::data
