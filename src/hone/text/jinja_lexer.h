#pragma once
// Jinja source -> text and tag tokens, with transformers' white space rules. Private to the interpreter.
#include <cstdint>
#include <string>
#include <vector>

namespace hone::text::jinja {

enum class TokenKind { text, print_begin, print_end, block_begin, block_end, name, string, integer, number, symbol, end };

struct Token {
  TokenKind kind;
  std::string text;  // text and string: the contents; name, symbol: itself
  int64_t integer = 0;
  double number = 0;
  int line = 1;
};

std::vector<Token> lex(const std::string& source);

}  // namespace hone::text::jinja
