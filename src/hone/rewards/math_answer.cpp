#include "hone/rewards/math_answer.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {
namespace {

bool alnum(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || static_cast<unsigned char>(c) >= 0x80; }

// The text between the brace at `open` and its partner.
std::optional<std::string_view> braced(std::string_view text, size_t open) {
  int depth = 0;
  for (size_t at = open; at < text.size(); ++at) {
    if (text[at] == '\\')
      ++at;  // \{ and \} are no braces
    else if (text[at] == '{')
      ++depth;
    else if (text[at] == '}' && --depth == 0)
      return text.substr(open + 1, at - open - 1);
  }
  return std::nullopt;
}

std::optional<std::string_view> last_box(std::string_view text) {
  // A box that does not close ends at the end of the text; looking at each from the back is linear, because at most kTries are looked at.
  constexpr int kTries = 64;
  size_t from = text.npos;
  for (int i = 0; i < kTries; ++i) {
    const size_t boxed = text.rfind("\\boxed", from), fbox = text.rfind("\\fbox", from);
    const size_t at = boxed == text.npos ? fbox : fbox == text.npos ? boxed : std::max(boxed, fbox);
    if (at == text.npos) return std::nullopt;
    size_t open = at + (text.substr(at, 6) == "\\boxed" ? 6 : 5);
    while (open < text.size() && text[open] == ' ') ++open;
    if (open < text.size() && text[open] == '{') {
      if (const auto inside = braced(text, open)) return inside;
    } else if (open < text.size() && alnum(text[open]) && open > at + 6) {  // \boxed 5
      size_t end = open;
      while (end < text.size() && alnum(text[end])) ++end;
      return text.substr(open, end - open);
    }
    if (at == 0) return std::nullopt;
    from = at - 1;
  }
  return std::nullopt;
}

std::string_view first_line(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n*");
  if (begin == text.npos) return {};
  return text.substr(begin, std::min(text.find('\n', begin), text.size()) - begin);
}

size_t last_marker(std::string_view text) {
  size_t result = text.npos;
  if (const size_t at = text.rfind("####"); at != text.npos) result = at + 4;
  for (size_t at = text.rfind("A:"); at != text.npos; at = at == 0 ? text.npos : text.rfind("A:", at - 1))
    if (at == 0 || !alnum(text[at - 1])) {
      if (result == text.npos || at + 2 > result) result = at + 2;
      break;
    }
  return result;
}

// The end of digits with thousands from `at`; `at` itself where there are none.
size_t whole_end(std::string_view text, size_t at) {
  size_t end = at;
  while (end < text.size() && digit(text[end])) ++end;
  if (end - at > 3 || end == at) return end;
  const auto three = [&](size_t from) {
    return from + 3 <= text.size() && digit(text[from]) && digit(text[from + 1]) && digit(text[from + 2]) &&
           (from + 3 == text.size() || !digit(text[from + 3]));
  };
  while (true) {
    if (end < text.size() && text[end] == ',' && three(end + 1))
      end += 4;
    else if (text.substr(end, 3) == ",\\!" && three(end + 3))
      end += 6;
    else if (text.substr(end, 3) == "{,}" && three(end + 3))
      end += 6;
    else
      return end;
  }
}

size_t digits_end(std::string_view text, size_t at) {
  while (at < text.size() && digit(text[at])) ++at;
  return at;
}

// \frac{a}{b} with numbers, from the backslash; 0 where it is none.
size_t fraction_end(std::string_view text, size_t at) {
  for (const char* name : {"\\frac", "\\dfrac", "\\tfrac"}) {
    if (text.substr(at, std::string_view(name).size()) != name) continue;
    size_t end = at + std::string_view(name).size();
    for (int part = 0; part < 2; ++part) {
      if (end >= text.size() || text[end] != '{') return 0;
      const size_t begin = end + 1 + (end + 1 < text.size() && text[end + 1] == '-');
      const size_t close = whole_end(text, begin);
      if (close == begin || close >= text.size() || text[close] != '}') return 0;
      end = close + 1;
    }
    return end;
  }
  return 0;
}

// Where the number that begins at `at` (a digit or a point before one) ends.
size_t number_end(std::string_view text, size_t at) {
  size_t end = whole_end(text, at);
  const bool has_point = end + 1 < text.size() && text[end] == '.' && digit(text[end + 1]);
  if (has_point) end = digits_end(text, end + 1);
  if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
    const size_t sign = end + 1 < text.size() && (text[end + 1] == '-' || text[end + 1] == '+') ? 1 : 0;
    const size_t stop = digits_end(text, end + 1 + sign);
    if (stop > end + 1 + sign && (stop == text.size() || !alnum(text[stop]))) end = stop;
  }
  if (!has_point) {
    size_t next = end;  // 2 1/2, 2\frac{1}{2}
    while (next < text.size() && text[next] == ' ') ++next;
    if (const size_t stop = fraction_end(text, next)) return stop;
    const size_t top = digits_end(text, next);
    if (next > end && top > next && top + 1 < text.size() && text[top] == '/' && digit(text[top + 1])) return digits_end(text, top + 1);
    if (end + 1 < text.size() && text[end] == '/' && digit(text[end + 1])) end = digits_end(text, end + 1);
  }
  return end;
}

}  // namespace

std::optional<FoundAnswer> marked_answer(std::string_view text) {
  if (const auto box = last_box(text)) return FoundAnswer{*box, Source::boxed};
  const size_t marker = last_marker(text);
  if (marker == text.npos) return std::nullopt;
  return FoundAnswer{first_line(text.substr(marker)), Source::marker};
}

std::optional<std::string_view> last_number(std::string_view text) {
  std::optional<std::string_view> found;
  for (size_t at = 0; at < text.size();) {
    size_t end = 0;
    if (digit(text[at]) || (text[at] == '.' && at + 1 < text.size() && digit(text[at + 1])))
      end = number_end(text, at);
    else if (text[at] == '\\')
      end = fraction_end(text, at);
    if (end == 0) {
      ++at;
      continue;
    }
    size_t begin = at;
    if (begin > 0 && text[begin - 1] == '$') --begin;
    if (begin > 0 && text[begin - 1] == '\\') --begin;
    // a minus is a sign where nothing stands before it that it could be taken from
    if (begin > 0 && text[begin - 1] == '-' && (begin == 1 || (!alnum(text[begin - 2]) && text[begin - 2] != ')' && text[begin - 2] != '}')))
      --begin;
    else if (begin > 2 && text.substr(begin - 3, 3) == "\u2212")
      begin -= 3;
    while (end < text.size() && (text.substr(end, 2) == "\\%" || text[end] == '%')) end += text[end] == '%' ? 1 : 2;
    found = text.substr(begin, end - begin);
    at = end;
  }
  return found;
}

std::optional<std::string_view> last_choice(std::string_view text) {
  const auto is_choice = [&](size_t at) {
    return text[at] >= 'A' && text[at] <= 'J' && (at == 0 || !alnum(text[at - 1])) && (at + 1 == text.size() || !alnum(text[at + 1]));
  };
  for (size_t at = text.size(); at-- > 0;)
    if (is_choice(at) && at > 0 && text[at - 1] == '(' && at + 1 < text.size() && text[at + 1] == ')') return text.substr(at, 1);
  for (size_t at = text.size(); at-- > 0;) {
    if (!is_choice(at)) continue;
    const bool is_word =
        (text[at] == 'A' || text[at] == 'I') && at + 2 < text.size() && text[at + 1] == ' ' && std::islower(static_cast<unsigned char>(text[at + 2]));
    const bool is_apostrophe = at + 1 < text.size() && text[at + 1] == '\'';
    if (!is_word && !is_apostrophe) return text.substr(at, 1);
  }
  return std::nullopt;
}

}  // namespace hone::rewards::math
