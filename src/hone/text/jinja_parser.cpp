// The statement half of the Jinja parser.
#include <algorithm>

#include "hone/base/error.h"
#include "hone/text/jinja_ast.h"
#include "hone/text/jinja_expressions.h"

namespace hone::text::jinja {
namespace {

constexpr int max_nesting = 60;

class StatementParser {
 public:
  explicit StatementParser(std::vector<Token> tokens) : in_(std::move(tokens)) {}

  std::vector<Statement> run() {
    std::vector<Statement> out = body({});
    if (in_.peek().kind != TokenKind::end) in_.unexpected("the end of the template");
    return out;
  }

 private:
  using Ends = std::vector<std::string_view>;

  // Statements up to a block whose tag is one of `ends` (its "{%" is then consumed, its name is at the cursor), or to the end.
  std::vector<Statement> body(const Ends& ends) {
    if (++level_ > max_nesting) fail("chat template line {}: blocks are nested deeper than {} levels", in_.peek().line, max_nesting);
    std::vector<Statement> out;
    for (;;) {
      const Token& token = in_.peek();
      if (token.kind == TokenKind::end) {
        if (!ends.empty()) in_.unexpected(ends.back());
        break;
      }
      Statement statement;
      statement.line = token.line;
      if (token.kind == TokenKind::text) {
        statement.text = in_.next().text;
      } else if (token.kind == TokenKind::print_begin) {
        in_.next();
        statement.kind = StatementKind::print;
        statement.exprs.push_back(parse_tuple(in_));
        if (in_.peek().kind != TokenKind::print_end) in_.unexpected("}}");
        in_.next();
      } else {
        in_.next();
        if (in_.peek().kind != TokenKind::name) in_.unexpected("the name of a block");
        if (std::find(ends.begin(), ends.end(), in_.peek().text) != ends.end()) break;
        block(statement);
      }
      out.push_back(std::move(statement));
    }
    --level_;
    return out;
  }

  void close() {
    if (in_.peek().kind != TokenKind::block_end) in_.unexpected("%}");
    in_.next();
  }

  void block(Statement& out) {
    const std::string tag = in_.next().text;
    if (tag == "if") return if_block(out);
    if (tag == "for") return for_block(out);
    if (tag == "set") return set_block(out);
    if (tag == "generation") {  // transformers' mark of what the model wrote: spans are found without it
      close();
      out.kind = StatementKind::group;
      out.bodies.push_back(body({"endgeneration"}));
      in_.next();
      return close();
    }
    if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail("chat template line {}: {} outside a loop", out.line, tag);
      out.kind = tag == "break" ? StatementKind::break_ : StatementKind::continue_;
      return close();
    }
    fail("chat template line {}: the block {{% {} %}} is not supported", out.line, tag);
  }

  void if_block(Statement& out) {
    out.kind = StatementKind::if_;
    out.exprs.push_back(parse_expression(in_));
    close();
    out.bodies.push_back(body({"elif", "else", "endif"}));
    while (in_.take_name("elif")) {
      out.exprs.push_back(parse_expression(in_));
      close();
      out.bodies.push_back(body({"elif", "else", "endif"}));
    }
    if (in_.take_name("else")) {
      close();
      out.bodies.push_back(body({"endif"}));
    }
    in_.next();
    close();
  }

  void for_block(Statement& out) {
    out.kind = StatementKind::for_;
    do out.names.push_back(in_.expect_name());
    while (in_.take_symbol(","));
    if (!in_.take_name("in")) in_.unexpected("in");
    out.exprs.push_back(parse_without_conditional(in_));
    out.exprs.push_back(in_.take_name("if") ? parse_expression(in_) : nullptr);
    if (in_.at_name("recursive")) fail("chat template line {}: recursive loops are not supported", out.line);
    close();
    ++loops_;
    out.bodies.push_back(body({"else", "endfor"}));
    --loops_;
    if (in_.take_name("else")) {
      close();
      out.bodies.push_back(body({"endfor"}));
    }
    in_.next();
    close();
  }

  void set_block(Statement& out) {
    out.kind = StatementKind::set;
    out.names.push_back(in_.expect_name());
    if (in_.take_symbol(".")) out.attribute = in_.expect_name();
    while (out.attribute.empty() && in_.take_symbol(",")) out.names.push_back(in_.expect_name());
    if (in_.take_symbol("=")) {
      out.exprs.push_back(parse_tuple(in_));
      return close();
    }
    if (in_.peek().kind != TokenKind::block_end) fail("chat template line {}: this form of set is not supported", out.line);
    if (!out.attribute.empty() || out.names.size() != 1) in_.unexpected("=");
    out.kind = StatementKind::set_block;
    close();
    out.bodies.push_back(body({"endset"}));
    in_.next();
    close();
  }

  Cursor in_;
  int level_ = 0;
  int loops_ = 0;
};

}  // namespace

std::vector<Statement> parse(const std::string& source) { return StatementParser(lex(source)).run(); }

}  // namespace hone::text::jinja
