#include "hone/text/pretokenize.h"

#include "hone/text/utf8.h"

namespace hone::text {
namespace {

size_t contraction_end(std::string_view text, size_t at) {
  const std::string_view rest = text.substr(at + 1, 2);
  if (rest.empty()) return at;
  if (rest[0] == 's' || rest[0] == 't' || rest[0] == 'm' || rest[0] == 'd') return at + 2;
  if (rest == "re" || rest == "ve" || rest == "ll") return at + 3;
  return at;
}

size_t run_end(std::string_view text, size_t at, CharClass wanted) {
  while (at < text.size()) {
    const CodePoint point = code_at(text, at);
    if (char_class(point.code) != wanted) break;
    at += static_cast<size_t>(point.length);
  }
  return at;
}

}  // namespace

size_t gpt2_word_end(std::string_view text, size_t at) {
  if (text[at] == '\'') {
    const size_t end = contraction_end(text, at);
    if (end > at) return end;
  }
  const CodePoint first = code_at(text, at);
  const CharClass kind = char_class(first.code);
  if (kind != CharClass::space) return run_end(text, at + static_cast<size_t>(first.length), kind);
  if (text[at] == ' ' && at + 1 < text.size()) {
    const CodePoint second = code_at(text, at + 1);
    const CharClass second_kind = char_class(second.code);
    if (second_kind != CharClass::space) return run_end(text, at + 1 + static_cast<size_t>(second.length), second_kind);
  }
  // White space up to the end, or all of it but the last character, which may belong to the next word; a single one stands alone.
  size_t end = at, last = at;
  while (end < text.size()) {
    const CodePoint point = code_at(text, end);
    if (char_class(point.code) != CharClass::space) return last > at ? last : end;
    last = end;
    end += static_cast<size_t>(point.length);
  }
  return end;
}

size_t digits_piece_end(std::string_view text, size_t at, PreTokenizer::Digits digits) {
  if (digits == PreTokenizer::Digits::together) return text.size();
  const CodePoint first = code_at(text, at);
  const bool number = char_class(first.code) == CharClass::number;
  size_t end = at + static_cast<size_t>(first.length);
  if (number && digits == PreTokenizer::Digits::single) return end;
  while (end < text.size()) {
    const CodePoint point = code_at(text, end);
    if ((char_class(point.code) == CharClass::number) != number) break;
    end += static_cast<size_t>(point.length);
  }
  return end;
}

}  // namespace hone::text
