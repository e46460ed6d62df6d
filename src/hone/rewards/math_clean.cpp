// LaTeX and Unicode brought to few forms; answers as words.
#include <algorithm>
#include <cctype>
#include <utility>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {
namespace {

struct Replacement {
  std::string_view from, to;
};

// Longest first where one begins with another; a name of LaTeX ends before the next character that is no letter.
constexpr Replacement kCommands[] = {
    {"\\displaystyle", ""},
    {"\\textstyle", ""},
    {"\\limits", ""},
    {"\\left", ""},
    {"\\right", ""},
    {"\\bigl", ""},
    {"\\bigr", ""},
    {"\\Bigl", ""},
    {"\\Bigr", ""},
    {"\\biggl", ""},
    {"\\biggr", ""},
    {"\\big", ""},
    {"\\Big", ""},
    {"\\bigg", ""},
    {"\\Bigg", ""},
    {"\\qquad", " "},
    {"\\quad", " "},
    {"\\dfrac", "\\frac"},
    {"\\tfrac", "\\frac"},
    {"\\cfrac", "\\frac"},
    {"\\dbinom", "\\binom"},
    {"\\tbinom", "\\binom"},
    {"\\mbox", "\\text"},
    {"\\textrm", "\\text"},
    {"\\textbf", "\\text"},
    {"\\textit", "\\text"},
    {"\\textnormal", "\\text"},
    {"\\mathrm", "\\text"},
    {"\\operatorname", "\\text"},
    {"\\mathit", ""},
    {"\\mathbf", ""},
    {"\\boldsymbol", ""},
    {"\\mathbb", ""},
    {"\\leq", "\\le"},
    {"\\leqslant", "\\le"},
    {"\\geq", "\\ge"},
    {"\\geqslant", "\\ge"},
    {"\\neq", "\\ne"},
    {"\\lt", "<"},
    {"\\gt", ">"},
    {"\\lbrack", "["},
    {"\\rbrack", "]"},
    {"\\lbrace", "\\{"},
    {"\\rbrace", "\\}"},
    {"\\cdot", "*"},
    {"\\times", "*"},
    {"\\div", "/"},
    {"\\colon", ":"},
    {"\\lvert", "|"},
    {"\\rvert", "|"},
    {"\\vert", "|"},
    {"\\varnothing", "\\emptyset"},
    {"\\Dot", ""},
    {"\\euro", ""},
    {"\\pounds", ""},
    {"\\textdollar", ""},
    {"\\degree", "\\degree "},
};
constexpr Replacement kSigns[] = {
    {"^{\\circ}", "\\degree "},
    {"^\\circ", "\\degree "},
    {"^ \\circ", "\\degree "},
    {"\\%", "%"},
    {"\\$", ""},
    {"$", ""},
    {"\\,", " "},
    {"\\;", " "},
    {"\\:", " "},
    {"\\ ", " "},
    {"~", " "},
    {"\\[", ""},
    {"\\]", ""},
    {"\\(", ""},
    {"\\)", ""},
    {"**", "^"},
    {"`", ""},
    {"\u2212", "-"},
    {"\u2013", "-"},
    {"\u2014", "-"},
    {"\u00d7", "*"},
    {"\u00b7", "*"},
    {"\u22c5", "*"},
    {"\u00f7", "/"},
    {"\u2044", "/"},
    {"\u2215", "/"},
    {"\u03c0", "\\pi "},
    {"\u221e", "\\infty "},
    {"\u222a", "\\cup "},
    {"\u2229", "\\cap "},
    {"\u2264", "\\le "},
    {"\u2265", "\\ge "},
    {"\u2260", "\\ne "},
    {"\u2208", "\\in "},
    {"\u00b1", "\\pm "},
    {"\u2213", "\\mp "},
    {"\u221a", "\\sqrt "},
    {"\u221b", "\\sqrt[3] "},
    {"\u00b0", "\\degree "},
    {"\u00b2", "^2 "},
    {"\u00b3", "^3 "},
    {"\u2074", "^4 "},
    {"\u00bd", "\\frac12 "},
    {"\u00bc", "\\frac14 "},
    {"\u00be", "\\frac34 "},
    {"\u2153", "\\frac13 "},
    {"\u2154", "\\frac23 "},
    {"\u00a0", " "},
    {"\u2009", " "},
    {"\u202f", " "},
    {"\u2003", " "},
    {"\u20ac", ""},
    {"\u00a3", ""},
    {"\u00a5", ""},
    {"\u20b9", ""},
    {"\u00a2", ""},
    {"\u03b8", "\\theta "},
    {"\u03b1", "\\alpha "},
    {"\u03b2", "\\beta "},
    {"\u2205", "\\emptyset "},
    {"\u2019", "'"},
};

std::string_view trimmed(std::string_view text, std::string_view what) {
  const size_t begin = text.find_first_not_of(what);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(what) - begin + 1);
}

// Replaces what stands at `at`; the length read, 0 for nothing.
size_t replace_at(std::string_view text, size_t at, std::string& out) {
  if (text.substr(at, 2) == "\\\\") return out += "\\\\", 2;  // the end of a matrix's row
  if (text.substr(at, 2) == "\\!") {
    if (!out.empty() && out.back() == ',') out += "\\!";  // 1,\!000 is one number
    return 2;
  }
  for (const Replacement& r : kSigns)
    if (text.substr(at, r.from.size()) == r.from) return out += r.to, r.from.size();
  if (text[at] != '\\') return 0;
  for (const Replacement& r : kCommands) {
    if (text.substr(at, r.from.size()) != r.from) continue;
    const size_t end = at + r.from.size();
    if (end < text.size() && letter(text[end])) continue;
    out += r.to;
    return r.from.size();
  }
  return 0;
}

}  // namespace

std::string cleaned(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const bool thin = text.substr(at, 2) == "\\," && at > 0 && std::isdigit(static_cast<unsigned char>(text[at - 1])) && at + 4 < text.size() &&
                      std::all_of(text.begin() + static_cast<long>(at) + 2, text.begin() + static_cast<long>(at) + 5,
                                  [](unsigned char c) { return std::isdigit(c); });
    if (thin) {  // 10\,000
      at += 2;
      continue;
    }
    const size_t read = replace_at(text, at, out);
    if (read == 0) out += text[at];
    at += read ? read : 1;
  }
  std::string_view view = trimmed(out, " \t\r\n*_");
  for (;;) {
    const size_t before = view.size();
    while (!view.empty() && (view.back() == '.' || view.back() == ',' || view.back() == ';' || view.back() == ':')) view.remove_suffix(1);
    while (!view.empty() && (view.front() == '=' || view.front() == ':')) view.remove_prefix(1);
    view = trimmed(view, " \t\r\n*_");
    if (view.size() == before) break;
  }
  return std::string(view);
}

std::string as_words(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (text.substr(at, 5) == "\\text") {
      at += 4;
      continue;
    }
    const bool is_dropped =
        c == '{' || c == '}' || c == '$' || c == '*' || c == '"' || c == '\'' || c == '(' || c == ')' || c == '\\' || c == '!' || c == '?';
    const bool ends_word = c == '.' && !(at + 1 < text.size() && std::isdigit(static_cast<unsigned char>(text[at + 1])));
    if (std::isspace(static_cast<unsigned char>(c)) || c == '~') {
      if (!out.empty() && out.back() != ' ') out += ' ';
    } else if (c == ',') {  // "a, b" and "a,b"
      while (!out.empty() && out.back() == ' ') out.pop_back();
      out += ", ";
    } else if (!is_dropped && !ends_word) {
      out += c;
    }
  }
  out = trimmed(out, " ,;:");
  if (out.size() > 1)
    for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace hone::rewards::math
