// Words, sentences and case as IFEval's checkers count them.
#include <utf8proc.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "hone/rewards/ifeval.h"
#include "hone/text/utf8.h"

namespace hone::rewards::ifeval {
namespace {

// Calls visit(code point, offset, bytes) for every valid character.
template <class Visit>
void each_code(std::string_view text, Visit visit) {
  for (size_t at = 0; at < text.size();) {
    const int length = text::utf8_length(text, at);
    if (length > 0) visit(text::utf8_code(text, at, length), at, static_cast<size_t>(length));
    at += static_cast<size_t>(std::max(length, 1));
  }
}

utf8proc_category_t category(uint32_t code) { return utf8proc_category(static_cast<utf8proc_int32_t>(code)); }

// Cased letters: upper (or title) case, and lower case.
struct Cases {
  bool upper = false, lower = false;
};
Cases cases(std::string_view text) {
  Cases found;
  each_code(text, [&](uint32_t code, size_t, size_t) {
    const utf8proc_category_t c = category(code);
    found.upper |= c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT;
    found.lower |= c == UTF8PROC_CATEGORY_LL;
  });
  return found;
}

bool space(char c) { return std::isspace(static_cast<unsigned char>(c)); }

// Abbreviations after which Punkt's English model does not end a sentence.
bool is_abbreviation(std::string_view word) {
  static const std::set<std::string, std::less<>> known{
      "mr",  "mrs", "ms",  "dr",  "prof",  "st",    "jr",   "sr",  "vs",   "etc", "inc",    "ltd",  "co",  "corp", "gen", "col",
      "lt",  "sgt", "rep", "sen", "gov",   "jan",   "feb",  "mar", "apr",  "aug", "sept",   "sep",  "oct", "nov",  "dec", "e.g",
      "i.e", "u.s", "u.k", "u.n", "a.m",   "p.m",   "ph.d", "d.c", "no",   "fig", "al",     "cf",   "ave", "blvd", "rd",  "mt",
      "ft",  "b.c", "a.d", "p.s", "p.p.s", "u.s.a", "rev",  "hon", "capt", "maj", "approx", "dept", "est"};
  std::string low;
  for (const char c : word) low += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return known.count(low) > 0 || (low.size() == 1 && std::isalpha(static_cast<unsigned char>(low[0])) && low != "i");
}

// The word that ends before `end`.
std::string_view word_before(std::string_view text, size_t end) {
  size_t begin = end;
  while (begin > 0 && !space(text[begin - 1]) && text[begin - 1] != '(' && text[begin - 1] != '"') --begin;
  return text.substr(begin, end - begin);
}

bool ends_sentence(std::string_view text, size_t at, size_t next) {
  if (text[at] != '.') return true;
  if (at > 0 && text[at - 1] == '.') return std::isupper(static_cast<unsigned char>(text[next]));  // an ellipsis
  if (!is_abbreviation(word_before(text, at))) return true;
  static const std::set<std::string, std::less<>> titles{"mr",  "mrs", "ms",  "dr",  "prof", "st",  "gen",  "col", "lt",
                                                         "sgt", "rep", "sen", "gov", "rev",  "hon", "capt", "maj"};
  const std::string word = lower(word_before(text, at));
  return word.size() > 2 && !titles.count(word) && std::isupper(static_cast<unsigned char>(text[next]));
}

// One piece of a text as NLTK's tokenizer has it; contractions are two words.
int64_t capitals_in(std::string_view piece) {
  while (!piece.empty() && (piece.back() == '.' || piece.back() == '\'')) piece.remove_suffix(1);
  while (!piece.empty() && piece.front() == '\'') piece.remove_prefix(1);
  const Cases found = cases(piece);
  if (!found.upper || found.lower) {
    const size_t quote = piece.find('\'');  // "I'm": the "I" counts
    if (quote == piece.npos) return 0;
    const Cases first = cases(piece.substr(0, quote));
    return first.upper && !first.lower;
  }
  return piece.find('\'') != piece.npos ? 2 : 1;
}

}  // namespace

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const int length = text::utf8_length(text, at);
    if (length == 0) {
      out += text[at++];
      continue;
    }
    text::utf8_append(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(text::utf8_code(text, at, length)))));
    at += static_cast<size_t>(length);
  }
  return out;
}

std::string_view stripped(std::string_view text) {
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

int64_t count_words(std::string_view text) {
  int64_t count = 0;
  size_t end_of_last = text.npos;
  each_code(text, [&](uint32_t code, size_t at, size_t length) {
    // Marks are no \w in Python, which is what the benchmark counts with
    const utf8proc_category_t c = category(code);
    const bool is_mark = c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
    if (is_mark || !text::is_word_char(code)) return;
    count += at != end_of_last;
    end_of_last = at + length;
  });
  return count;
}

int64_t count_sentences(std::string_view given) {
  const std::string_view text = stripped(given);
  if (text.empty()) return 0;
  int64_t count = 1;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '.' && text[at] != '?' && text[at] != '!') continue;
    size_t end = at + 1;
    while (end < text.size() && (text[end] == '"' || text[end] == '\'' || text[end] == ')' || text[end] == ']' || text[end] == '*')) ++end;
    for (const std::string_view quote : {"\u201d", "\u2019"})
      if (text.substr(end, quote.size()) == quote) end += quote.size();
    if (end >= text.size() || !space(text[end])) continue;
    size_t next = end;
    while (next < text.size() && space(text[next])) ++next;
    count += next < text.size() && ends_sentence(text, at, next);
  }
  return count;
}

int64_t count_capital_words(std::string_view text) {
  constexpr std::string_view separators = " \t\r\n\v\f,;:@#$%&?!()[]{}<>\"`*";
  int64_t count = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = text.find_first_not_of(separators, at);
    if (begin == text.npos) break;
    size_t end = std::min(text.find_first_of(separators, begin), text.size());
    for (const std::string_view dash : {"--", "\u201c", "\u201d", "\u2026"})
      end = std::min(end, std::max(begin, std::min(text.find(dash, begin), text.size())));
    if (end == begin) {  // a quotation mark or dash
      at = begin + (text[begin] == '-' ? 2 : 3);
      continue;
    }
    count += capitals_in(text.substr(begin, end - begin));
    at = end;
  }
  return count;
}

bool is_upper(std::string_view text) {
  const Cases found = cases(text);
  return found.upper && !found.lower;
}
bool is_lower(std::string_view text) {
  const Cases found = cases(text);
  return found.lower && !found.upper;
}

}  // namespace hone::rewards::ifeval
