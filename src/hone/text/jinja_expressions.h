#pragma once
// The expression half of the Jinja parser. Private to the interpreter.
#include <string_view>
#include <vector>

#include "hone/text/jinja_ast.h"
#include "hone/text/jinja_lexer.h"

namespace hone::text::jinja {

/// A position in the tokens, with what both halves of the parser need.
class Cursor {
 public:
  explicit Cursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  const Token& peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool at_symbol(std::string_view text) const { return peek().kind == TokenKind::symbol && peek().text == text; }
  bool at_name(std::string_view text) const { return peek().kind == TokenKind::name && peek().text == text; }
  bool take_symbol(std::string_view text) { return at_symbol(text) && (next(), true); }
  bool take_name(std::string_view text) { return at_name(text) && (next(), true); }
  void expect_symbol(std::string_view text);
  std::string expect_name();
  /// Throws "chat template line N: unexpected ...".
  [[noreturn]] void unexpected(std::string_view wanted) const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

/// An expression, conditional included.
ExprPtr parse_expression(Cursor& cursor);
/// An expression without the conditional form: what stands after `in` of a for loop, before its `if`.
ExprPtr parse_without_conditional(Cursor& cursor);
/// An expression or a bare tuple (a, b), as behind `set x =` and in `{{ }}`.
ExprPtr parse_tuple(Cursor& cursor);

}  // namespace hone::text::jinja
