// Answers as trees: recursive descent over the tokens, with bounded nesting.
#include <algorithm>

#include "hone/rewards/math_parser.h"

namespace hone::rewards::math {
namespace {

// Words, as an answer: letters, and nothing of an expression that went wrong.
bool is_words(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return std::isalpha(c) || c >= 0x80; }) &&
         text.find_first_of("^_=&|+<>[]/%") == text.npos;
}

}  // namespace

bool parse_answer(std::string_view text, const TokenOptions& options, Steps& steps, ParsedAnswer& out) {
  try {
    out.tree.root = Parser(tokenize(text, options), steps, out).run();
    return true;
  } catch (const NoExpression&) {
  }
  std::string words = as_words(text);
  bool has_command = false;  // a LaTeX command that is no \text
  for (size_t at = text.find('\\'); at != text.npos; at = text.find('\\', at + 1))
    has_command |= text.substr(at, 5) != "\\text" && std::isalpha(static_cast<unsigned char>(text[std::min(at + 1, text.size() - 1)]));
  if (words.empty() || has_command || !is_words(words)) return false;
  out = {};
  out.tree.nodes.push_back({Kind::words, std::move(words), {}, {}});
  out.tree.root = &out.tree.nodes.back();
  out.is_words = true;
  return true;
}

}  // namespace hone::rewards::math
