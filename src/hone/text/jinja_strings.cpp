#include "hone/text/jinja_strings.h"

#include <utf8proc.h>

#include "hone/base/error.h"
#include "hone/text/utf8.h"

namespace hone::text::jinja {
namespace {

// Python's str.isspace: \s and the four separators FS, GS, RS, US.
bool python_space(uint32_t code) { return char_class(code) == CharClass::space || (code >= 0x1C && code <= 0x1F); }

bool stripped(uint32_t code, const std::string* characters) {
  if (!characters) return python_space(code);
  for (size_t at = 0; at < characters->size();) {
    const CodePoint point = code_at(*characters, at);
    if (point.code == code) return true;
    at += static_cast<size_t>(point.length);
  }
  return false;
}

}  // namespace

Text strip(const Text& text, const std::string* characters, bool left, bool right) {
  size_t begin = 0, end = text.bytes.size();
  while (left && begin < end) {
    const CodePoint point = code_at(text.bytes, begin);
    if (!stripped(point.code, characters)) break;
    begin += static_cast<size_t>(point.length);
  }
  while (right && end > begin) {
    size_t start = end - 1;
    while ((static_cast<unsigned char>(text.bytes[start]) & 0xC0) == 0x80) --start;
    if (!stripped(code_at(text.bytes, start).code, characters)) break;
    end = start;
  }
  return text.part(begin, end);
}

List split(const Text& text, std::string_view separator, int64_t most) {
  List out;
  size_t begin = 0;
  if (!separator.empty()) {
    for (size_t at = 0; most < 0 || static_cast<int64_t>(out.size()) < most; begin = at + separator.size()) {
      at = text.bytes.find(separator, begin);
      if (at == std::string::npos) break;
      out.push_back(make_string(text.part(begin, at)));
    }
    out.push_back(make_string(text.part(begin, text.bytes.size())));
    return out;
  }
  const auto space_length = [&](size_t at) {
    const CodePoint point = code_at(text.bytes, at);
    return python_space(point.code) ? static_cast<size_t>(point.length) : size_t{0};
  };
  for (size_t at = 0; at < text.bytes.size();) {
    if (const size_t space = space_length(at)) {
      at += space;
      continue;
    }
    if (most >= 0 && static_cast<int64_t>(out.size()) >= most) {
      out.push_back(make_string(strip(text.part(at, text.bytes.size()), nullptr, false, true)));
      break;
    }
    for (begin = at; at < text.bytes.size() && space_length(at) == 0;) at += static_cast<size_t>(code_at(text.bytes, at).length);
    out.push_back(make_string(text.part(begin, at)));
  }
  return out;
}

Text replace(const Text& text, const Text& from, const Text& to, int64_t most, int line) {
  constexpr size_t limit = size_t{1} << 24;
  if (from.bytes.empty()) fail("chat template line {}: replacing the empty string is not supported", line);
  Text out;
  size_t begin = 0;
  for (int64_t count = 0; most < 0 || count < most; ++count) {
    const size_t at = text.bytes.find(from.bytes, begin);
    if (at == std::string::npos) break;
    out.append(text, begin, at);
    out.append(to);
    if (out.bytes.size() > limit) fail("chat template line {}: a string is longer than {} bytes", line, limit);
    begin = at + from.bytes.size();
  }
  out.append(text, begin, text.bytes.size());
  return out;
}

Text change_case(const Text& text, Case wanted) {
  Text out;
  bool first = true;  // of the text, or of a word for `title`
  for (size_t at = 0; at < text.bytes.size();) {
    const CodePoint point = code_at(text.bytes, at);
    const bool up = wanted == Case::upper || (first && wanted != Case::lower);
    const auto code = static_cast<utf8proc_int32_t>(point.code);
    std::string changed;
    utf8_append(changed, static_cast<uint32_t>(up ? utf8proc_toupper(code) : utf8proc_tolower(code)));
    out.append(changed, text.origin[at]);
    first = wanted == Case::title && char_class(point.code) != CharClass::letter;
    at += static_cast<size_t>(point.length);
  }
  return out;
}

}  // namespace hone::text::jinja
