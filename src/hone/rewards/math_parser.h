#pragma once
// The parser of answers, in two files: structures and sums (math_parse.cpp), what a factor may be (math_parse_primary.cpp).
#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {

constexpr int kMaxDepth = 100;
struct NoExpression {};

class Parser {
 public:
  Parser(std::vector<Token> tokens, Steps& steps, ParsedAnswer& out) : tokens_(std::move(tokens)), steps_(steps), out_(out) {}

  const Node* run() {
    std::vector<const Node*> elements = list(true);
    if (now().kind != TokenKind::end || elements.empty()) throw NoExpression{};
    return elements.size() == 1 ? elements[0] : make(Kind::list, "", std::move(elements));
  }

 private:
  struct Deeper {
    explicit Deeper(Parser& p) : parser(p) {
      if (++parser.depth_ > kMaxDepth) throw OverLimit{};
      parser.steps_.take(4);
    }
    ~Deeper() { --parser.depth_; }
    Parser& parser;
  };

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead(size_t n) const { return tokens_[std::min(at_ + n, tokens_.size() - 1)]; }
  bool is_sign(std::string_view text) const { return now().kind == TokenKind::sign && now().text == text; }
  bool is_command(std::string_view text) const { return now().kind == TokenKind::command && now().text == text; }
  bool take_sign(std::string_view text) { return is_sign(text) && (++at_, true); }
  bool take_command(std::string_view text) { return is_command(text) && (++at_, true); }
  void want_sign(std::string_view text) {
    if (!take_sign(text)) throw NoExpression{};
  }

  const Node* make(Kind kind, std::string name, std::vector<const Node*> children) {
    out_.tree.nodes.push_back({kind, std::move(name), {}, std::move(children)});
    return &out_.tree.nodes.back();
  }
  const Node* number(const mpq_class& value) {
    out_.tree.nodes.push_back({Kind::number, "", value, {}});
    return &out_.tree.nodes.back();
  }

  bool take_separator() {
    if (take_sign(",") || take_sign(";")) {
      if (now().kind == TokenKind::word && (now().text == "and" || now().text == "or")) ++at_;
      return true;
    }
    return now().kind == TokenKind::word && (now().text == "and" || now().text == "or") && (++at_, true);
  }

  // Elements between separators. With `splits`, one with \pm becomes two.
  std::vector<const Node*> list(bool splits) {
    const Deeper deeper(*this);
    std::vector<const Node*> elements;
    do {
      const size_t start = at_;
      const bool seen = std::exchange(saw_sign_choice_, false);
      elements.push_back(chain());
      if (splits && saw_sign_choice_) {
        at_ = start;
        plus_ = !plus_;
        elements.push_back(chain());
        plus_ = !plus_;
      }
      saw_sign_choice_ = splits ? seen : seen || saw_sign_choice_;
    } while (take_separator());
    return elements;
  }

  char relation() const {
    if (now().kind == TokenKind::sign && now().text.size() == 1 && std::string_view("=<>lgn").find(now().text[0]) != std::string_view::npos)
      return now().text[0];
    if (now().kind != TokenKind::command) return 0;
    if (now().text == "le") return 'l';
    if (now().text == "ge") return 'g';
    if (now().text == "ne") return 'n';
    return now().text == "in" ? 'e' : 0;
  }

  const Node* chain() {
    std::vector<const Node*> sides{join()};
    std::string relations;
    while (const char r = relation()) {
      ++at_;
      relations += r;
      sides.push_back(join());
    }
    return sides.size() == 1 ? sides[0] : make(Kind::relation, relations, std::move(sides));
  }

  const Node* join() {
    const Node* left = ratio();
    while (is_command("cup") || is_command("cap") || is_command("setminus") ||
           (now().kind == TokenKind::letters && now().text == "U" && ends_bracket())) {
      const std::string name = now().kind == TokenKind::letters ? "cup" : now().text;
      ++at_;
      const Node* right = ratio();
      if (left->kind == Kind::join && left->name == name) {
        std::vector<const Node*> all = left->children;
        all.push_back(right);
        left = make(Kind::join, name, std::move(all));
      } else {
        left = make(Kind::join, name, {left, right});
      }
    }
    return left;
  }

  bool ends_bracket() const { return at_ > 0 && (tokens_[at_ - 1].text == ")" || tokens_[at_ - 1].text == "]"); }

  const Node* ratio() {
    const Node* first = sum();
    if (!is_sign(":")) return first;
    std::vector<const Node*> terms{first};
    while (take_sign(":")) terms.push_back(sum());
    return make(Kind::ratio, "", std::move(terms));
  }

  // +1, -1 or, where no sign stands here, 0.
  int take_plus_minus() {
    if (take_sign("+")) return 1;
    if (take_sign("-")) return -1;
    const bool is_plus = is_command("pm");
    if (!is_plus && !is_command("mp")) return 0;
    ++at_;
    saw_sign_choice_ = true;
    return is_plus == plus_ ? 1 : -1;
  }

  const Node* sum() {
    const Deeper deeper(*this);
    std::vector<const Node*> terms;
    int sign = take_plus_minus();
    do {
      const Node* term = product();
      terms.push_back(sign < 0 ? make(Kind::negate, "", {term}) : term);
    } while ((sign = take_plus_minus()) != 0);
    return terms.size() == 1 ? terms[0] : make(Kind::add, "", std::move(terms));
  }

  const Node* signed_factor() {
    bool negative = false;
    while (true) {
      if (take_sign("-"))
        negative = !negative;
      else if (!take_sign("+"))
        break;
    }
    const Node* factor = power();
    return negative ? make(Kind::negate, "", {factor}) : factor;
  }

  bool starts_factor() const {
    const Token& token = now();
    if (token.kind == TokenKind::number || token.kind == TokenKind::letters || token.kind == TokenKind::text) return true;
    if (token.kind == TokenKind::sign) return token.text == "(" || token.text == "{" || token.text == "[";
    static const std::set<std::string, std::less<>> others{"cup", "cap", "setminus", "pm",  "mp",     "le",     "ge",   "ne",
                                                           "in",  "}",   "\\",       "end", "degree", "rfloor", "rceil"};
    return token.kind == TokenKind::command && !others.count(token.text);
  }

  const Node* product() {
    const Deeper deeper(*this);
    const size_t first = at_;
    std::vector<const Node*> factors{signed_factor()};
    if (const Node* fraction = mixed_part(first)) factors[0] = make(Kind::add, "", {factors[0], fraction});
    for (;;) {
      steps_.take(2);
      if (take_sign("*")) {
        factors.push_back(signed_factor());
      } else if (take_sign("/")) {
        if (now().kind == TokenKind::word) {  // miles/hour
          unit(first);
          continue;
        }
        const Node* top = factors.size() == 1 ? factors[0] : make(Kind::multiply, "", std::move(factors));
        factors = {make(Kind::divide, "", {top, signed_factor()})};
      } else if (now().kind == TokenKind::word && now().text != "and" && now().text != "or") {
        unit(first);
        if (starts_factor()) throw NoExpression{};
      } else if (starts_factor() && !(now().kind == TokenKind::letters && now().text == "U" && ends_bracket() && ahead(1).kind == TokenKind::sign)) {
        if (now().kind == TokenKind::number && tokens_[at_ - 1].kind == TokenKind::number) throw NoExpression{};
        factors.push_back(power());
      } else {
        break;
      }
    }
    return factors.size() == 1 ? factors[0] : make(Kind::multiply, "", std::move(factors));
  }

  // The fraction of a mixed number whose whole part was the one token before: 6\frac{1}{5}, 2 1/2.
  const Node* mixed_part(size_t first) {
    if (at_ != first + 1 || !tokens_[first].plain_integer) return nullptr;
    if (is_command("frac")) {
      const size_t start = at_;
      const Node* fraction = power();
      const bool plain = fraction->kind == Kind::divide && fraction->children[0]->kind == Kind::number && fraction->children[1]->kind == Kind::number;
      if (plain) return fraction;
      at_ = start;
      return nullptr;
    }
    const bool plain =
        now().plain_integer && now().space_before && ahead(1).kind == TokenKind::sign && ahead(1).text == "/" && ahead(2).plain_integer;
    if (!plain) return nullptr;
    const Node* top = number(now().number);
    at_ += 2;
    const Node* bottom = number(now().number);
    ++at_;
    return make(Kind::divide, "", {top, bottom});
  }

  // Words behind a number (which stands from token `first`), with their powers: "cm", "square feet", "units^2".
  void unit(size_t first) {
    const bool counts = std::any_of(tokens_.begin() + static_cast<long>(first), tokens_.begin() + static_cast<long>(at_),
                                    [](const Token& t) { return t.kind == TokenKind::number || t.text == "pi"; });
    if (!counts) throw NoExpression{};
    std::string name;
    while (now().kind == TokenKind::word && now().text != "and" && now().text != "or") {
      name += (name.empty() ? "" : " ") + now().text;
      ++at_;
      if (take_sign("^")) {
        const bool braces = take_sign("{");
        if (now().kind != TokenKind::number) throw NoExpression{};
        name += "^" + now().text;
        ++at_;
        if (braces) want_sign("}");
      }
      if (is_sign("/") && ahead(1).kind == TokenKind::word) name += " per", ++at_;
      while (is_sign(".")) ++at_;
    }
    if (out_.unit.name.empty()) out_.unit.name = name;
  }

  const Node* power() {
    const Deeper deeper(*this);
    const Node* base = primary();
    for (;;) {
      if (take_sign("!"))
        base = make(Kind::function, "fact", {base});
      else if (take_sign("%"))
        base = make(Kind::percent, "", {base});
      else if (now().kind == TokenKind::word && now().text == "percent")
        ++at_, base = make(Kind::percent, "", {base});
      else if (take_command("degree"))
        base = make(Kind::degree, "", {base});
      else if (take_sign("^"))
        return make(Kind::power, "", {base, exponent()});
      else
        return base;
    }
  }

  const Node* exponent() {
    if (is_sign("-") || is_sign("+")) return signed_factor();
    return power();
  }

  // One argument of \frac: a group, or one digit or symbol.
  const Node* argument() {
    Token& token = tokens_[at_];
    if (token.kind == TokenKind::number && token.plain_integer && token.text.size() > 1) {
      const mpq_class digit(token.text[0] - '0');
      token.text.erase(0, 1);
      token.number = mpq_class(mpz_class(token.text, 10));
      return number(digit);
    }
    return primary();
  }

  const Node* primary() {
    const Deeper deeper(*this);
    const Token token = now();
    switch (token.kind) {
      case TokenKind::number:
        ++at_;
        return number(token.number);
      case TokenKind::letters:
        ++at_;
        return symbol(token.text);
      case TokenKind::text:
        ++at_;
        return based(token.text.substr(6));
      case TokenKind::sign:
        return signed_primary(token.text);
      case TokenKind::command:
        ++at_;
        return command(token.text);
      default:
        throw NoExpression{};
    }
  }

  // What a factor may be (math_parse_primary.cpp).
  const Node* symbol(std::string name);
  std::string subscript();
  const Node* based(const std::string& digits);
  const Node* signed_primary(const std::string& sign);
  const Node* bracket(const std::string& open);
  const Node* group();
  const Node* function(const std::string& name);
  const Node* root_of();
  const Node* matrix();
  const Node* between(const char* name, const char* close);
  const Node* command(const std::string& name);

  std::vector<Token> tokens_;
  Steps& steps_;
  ParsedAnswer& out_;
  size_t at_ = 0;
  int depth_ = 0;
  bool plus_ = true, saw_sign_choice_ = false;
};

}  // namespace hone::rewards::math
