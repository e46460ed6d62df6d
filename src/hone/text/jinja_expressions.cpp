#include "hone/text/jinja_expressions.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/text/jinja_builtins.h"

namespace hone::text::jinja {

void Cursor::unexpected(std::string_view wanted) const {
  const Token& token = peek();
  const std::string_view found = token.kind == TokenKind::end         ? "the end of the template"
                                 : token.kind == TokenKind::block_end ? "%}"
                                 : token.kind == TokenKind::print_end ? "}}"
                                                                      : std::string_view(token.text).substr(0, 40);
  fail("chat template line {}: expected {}, found {}", token.line, wanted, found);
}

void Cursor::expect_symbol(std::string_view text) {
  if (!take_symbol(text)) unexpected(text);
}

std::string Cursor::expect_name() {
  if (peek().kind != TokenKind::name) unexpected("a name");
  return next().text;
}

namespace {

constexpr int max_depth = 200;

class Parser {
 public:
  explicit Parser(Cursor& cursor) : in_(cursor) {}

  ExprPtr conditional() {
    const Nested nested(*this);
    ExprPtr left = logical_or();
    while (in_.at_name("if")) {
      ExprPtr out = node(ExprKind::conditional);
      in_.next();
      add(out, std::move(left));
      add(out, logical_or());
      if (in_.take_name("else"))
        add(out, conditional());
      else
        out->args.push_back(nullptr);
      left = std::move(out);
    }
    return left;
  }

  ExprPtr logical_or() {
    ExprPtr left = logical_and();
    while (in_.at_name("or")) left = pair(ExprKind::logical_or, std::move(left), &Parser::logical_and);
    return left;
  }

 private:
  struct Nested {
    explicit Nested(Parser& parser) : parser_(parser) {
      if (++parser_.level_ > max_depth) fail("chat template line {}: nested deeper than {} levels", parser_.in_.peek().line, max_depth);
    }
    ~Nested() { --parser_.level_; }
    Parser& parser_;
  };

  ExprPtr node(ExprKind kind, std::string text = {}) const {
    auto out = std::make_unique<Expr>();
    out->kind = kind;
    out->line = in_.peek().line;
    out->text = std::move(text);
    return out;
  }

  static void deepen(Expr& parent, const Expr& child) {
    parent.depth = std::max(parent.depth, child.depth + 1);
    if (parent.depth > max_depth) fail("chat template line {}: an expression is nested deeper than {} levels", parent.line, max_depth);
  }

  static void add(ExprPtr& parent, ExprPtr child) {
    deepen(*parent, *child);
    parent->args.push_back(std::move(child));
  }

  // The operator stands at the cursor.
  ExprPtr pair(ExprKind kind, ExprPtr left, ExprPtr (Parser::*right)()) {
    ExprPtr out = node(kind, in_.peek().text);
    in_.next();
    add(out, std::move(left));
    add(out, (this->*right)());
    return out;
  }

  ExprPtr logical_and() {
    ExprPtr left = logical_not();
    while (in_.at_name("and")) left = pair(ExprKind::logical_and, std::move(left), &Parser::logical_not);
    return left;
  }

  ExprPtr logical_not() {
    if (!in_.at_name("not")) return compare();
    const Nested nested(*this);
    ExprPtr out = node(ExprKind::logical_not);
    in_.next();
    add(out, logical_not());
    return out;
  }

  ExprPtr compare() {
    ExprPtr left = sum();
    ExprPtr out;
    for (;;) {
      const Token& token = in_.peek();
      std::string name;
      if (token.kind == TokenKind::symbol &&
          (token.text == "==" || token.text == "!=" || token.text == "<" || token.text == "<=" || token.text == ">" || token.text == ">="))
        name = token.text;
      else if (in_.at_name("in"))
        name = "in";
      else if (in_.at_name("not") && in_.peek(1).kind == TokenKind::name && in_.peek(1).text == "in")
        name = "not in";
      if (name.empty()) return out ? std::move(out) : std::move(left);
      if (!out) {
        out = node(ExprKind::compare);
        add(out, std::move(left));
      }
      in_.next();
      if (name == "not in") in_.next();
      out->names.push_back(name);
      add(out, sum());
    }
  }

  ExprPtr sum() {
    ExprPtr left = concatenation();
    while (in_.at_symbol("+") || in_.at_symbol("-")) left = pair(ExprKind::binary, std::move(left), &Parser::concatenation);
    return left;
  }

  ExprPtr concatenation() {
    ExprPtr left = product();
    while (in_.at_symbol("~")) left = pair(ExprKind::binary, std::move(left), &Parser::product);
    return left;
  }

  ExprPtr product() {
    ExprPtr left = filtered_unary();
    while (in_.at_symbol("*") || in_.at_symbol("/") || in_.at_symbol("//") || in_.at_symbol("%"))
      left = pair(ExprKind::binary, std::move(left), &Parser::filtered_unary);
    return left;
  }

  // As Jinja has it: -x | f is (-x) | f.
  ExprPtr filtered_unary() { return filters(unary()); }

  ExprPtr unary() {
    const Nested nested(*this);
    if (in_.at_symbol("-") || in_.at_symbol("+")) {
      const bool negative = in_.next().text == "-";
      ExprPtr inner = unary();
      if (!negative) return inner;
      ExprPtr out = node(ExprKind::negate);
      add(out, std::move(inner));
      return out;
    }
    ExprPtr out = postfix(primary());
    if (in_.at_symbol("**")) fail("chat template line {}: the operator ** is not supported", in_.peek().line);
    return out;
  }

  ExprPtr primary() {
    const Token& token = in_.peek();
    ExprPtr out = node(ExprKind::literal);
    switch (token.kind) {
      case TokenKind::string: {
        std::string text;
        while (in_.peek().kind == TokenKind::string) text += in_.next().text;
        out->value = make_string(text);
        return out;
      }
      case TokenKind::integer:
        out->value = make_int(in_.next().integer);
        return out;
      case TokenKind::number:
        out->value = make_number(in_.next().number);
        return out;
      case TokenKind::name:
        return name();
      case TokenKind::symbol:
        if (in_.take_symbol("(")) return parenthesis();
        if (in_.take_symbol("[")) return list();
        if (in_.take_symbol("{")) return dict();
        [[fallthrough]];
      default:
        in_.unexpected("an expression");
    }
  }

  ExprPtr name() {
    ExprPtr out = node(ExprKind::literal);
    const std::string text = in_.next().text;
    if (text == "true" || text == "True")
      out->value = make_bool(true);
    else if (text == "false" || text == "False")
      out->value = make_bool(false);
    else if (text == "none" || text == "None")
      out->value = make_none();
    else
      out->kind = ExprKind::name, out->text = text;
    return out;
  }

  ExprPtr parenthesis() {
    ExprPtr out = node(ExprKind::list);
    if (in_.take_symbol(")")) return out;
    ExprPtr first = conditional();
    if (in_.take_symbol(")")) return first;
    add(out, std::move(first));
    while (in_.take_symbol(",") && !in_.at_symbol(")")) add(out, conditional());
    in_.expect_symbol(")");
    return out;
  }

  ExprPtr list() {
    ExprPtr out = node(ExprKind::list);
    while (!in_.at_symbol("]")) {
      add(out, conditional());
      if (!in_.take_symbol(",")) break;
    }
    in_.expect_symbol("]");
    return out;
  }

  ExprPtr dict() {
    ExprPtr out = node(ExprKind::dict);
    while (!in_.at_symbol("}")) {
      add(out, conditional());
      in_.expect_symbol(":");
      add(out, conditional());
      if (!in_.take_symbol(",")) break;
    }
    in_.expect_symbol("}");
    return out;
  }

  ExprPtr postfix(ExprPtr left) {
    for (;;) {
      if (in_.take_symbol(".")) {
        ExprPtr out = node(ExprKind::attribute, in_.expect_name());
        add(out, std::move(left));
        left = std::move(out);
      } else if (in_.take_symbol("[")) {
        left = subscript(std::move(left));
      } else if (in_.at_symbol("(")) {
        left = call(std::move(left));
      } else {
        return left;
      }
    }
  }

  ExprPtr subscript(ExprPtr object) {
    ExprPtr out = node(ExprKind::item);
    add(out, std::move(object));
    ExprPtr parts[3];
    int colons = 0;
    while (!in_.at_symbol("]")) {
      if (in_.take_symbol(":")) {
        if (++colons > 2) in_.unexpected("]");
      } else {
        if (parts[colons]) in_.unexpected("]");
        parts[colons] = conditional();
      }
    }
    in_.expect_symbol("]");
    if (colons == 0) {
      if (!parts[0]) in_.unexpected("an index");
      add(out, std::move(parts[0]));
      return out;
    }
    out->kind = ExprKind::slice;
    for (ExprPtr& part : parts) {
      if (part) deepen(*out, *part);
      out->args.push_back(std::move(part));
    }
    return out;
  }

  ExprPtr call(ExprPtr callee) {
    if (callee->kind == ExprKind::name && !is_function(callee->text))
      fail("chat template line {}: the function {}() is not supported", callee->line, callee->text);
    if (callee->kind == ExprKind::attribute && !is_method(callee->text))
      fail("chat template line {}: the method {}() is not supported", callee->line, callee->text);
    if (callee->kind != ExprKind::name && callee->kind != ExprKind::attribute)
      fail("chat template line {}: calling anything but a named function or method is not supported", callee->line);
    ExprPtr out = node(ExprKind::call);
    add(out, std::move(callee));
    arguments(out);
    return out;
  }

  void arguments(ExprPtr& out) {
    in_.expect_symbol("(");
    while (!in_.at_symbol(")")) {
      if (in_.at_symbol("*") || in_.at_symbol("**")) fail("chat template line {}: argument unpacking is not supported", in_.peek().line);
      if (in_.peek().kind == TokenKind::name && in_.peek(1).kind == TokenKind::symbol && in_.peek(1).text == "=") {
        const std::string key = in_.next().text;
        in_.next();
        ExprPtr value = conditional();
        deepen(*out, *value);
        out->keywords.emplace_back(key, std::move(value));
      } else {
        add(out, conditional());
      }
      if (!in_.take_symbol(",")) break;
    }
    in_.expect_symbol(")");
  }

  ExprPtr filters(ExprPtr left) {
    for (;;) {
      if (in_.take_symbol("|")) {
        ExprPtr out = node(ExprKind::filter);
        out->text = in_.expect_name();
        if (!is_filter(out->text)) fail("chat template line {}: the filter {} is not supported", out->line, out->text);
        add(out, std::move(left));
        if (in_.at_symbol("(")) arguments(out);
        left = std::move(out);
      } else if (in_.at_name("is")) {
        left = test(std::move(left));
      } else if (in_.at_symbol("(")) {
        left = call(std::move(left));
      } else {
        return left;
      }
    }
  }

  ExprPtr test(ExprPtr left) {
    ExprPtr out = node(ExprKind::test);
    in_.next();
    out->negated = in_.take_name("not");
    out->text = in_.expect_name();
    if (!is_test(out->text)) fail("chat template line {}: the test \"is {}\" is not supported", out->line, out->text);
    add(out, std::move(left));
    const Token& token = in_.peek();
    const bool word = token.kind == TokenKind::name && token.text != "else" && token.text != "or" && token.text != "and" && token.text != "is" &&
                      token.text != "if" && token.text != "in" && token.text != "not";
    if (in_.at_symbol("("))
      arguments(out);
    else if (word || token.kind == TokenKind::string || token.kind == TokenKind::integer || token.kind == TokenKind::number || in_.at_symbol("["))
      add(out, postfix(primary()));
    return out;
  }

  Cursor& in_;
  int level_ = 0;
};

}  // namespace

ExprPtr parse_expression(Cursor& cursor) { return Parser(cursor).conditional(); }

ExprPtr parse_without_conditional(Cursor& cursor) { return Parser(cursor).logical_or(); }

ExprPtr parse_tuple(Cursor& cursor) {
  ExprPtr first = parse_expression(cursor);
  if (!cursor.at_symbol(",")) return first;
  auto out = std::make_unique<Expr>();
  out->kind = ExprKind::list;
  out->line = first->line;
  out->depth = first->depth + 1;
  out->args.push_back(std::move(first));
  while (cursor.take_symbol(",") && cursor.peek().kind != TokenKind::block_end && cursor.peek().kind != TokenKind::print_end) {
    out->args.push_back(parse_expression(cursor));
    out->depth = std::max(out->depth, out->args.back()->depth + 1);
  }
  return out;
}

}  // namespace hone::text::jinja
