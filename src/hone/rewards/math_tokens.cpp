// Answers as tokens.
#include <algorithm>
#include <array>
#include <cctype>
#include <set>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {
namespace {

constexpr size_t kMaxTokens = 4000;
constexpr size_t kMaxDigits = 10000;
constexpr long kMaxExponent = 10000;  // of ten

class Lexer {
 public:
  Lexer(std::string_view text, const TokenOptions& options) : text_(text), options_(options) {}

  std::vector<Token> run() {
    while (true) {
      bool space = false;
      while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_, space = true;
      if (at_ >= text_.size()) break;
      if (tokens_.size() >= kMaxTokens) throw OverLimit{};
      const size_t before = tokens_.size();
      next();
      if (before < tokens_.size()) tokens_[before].space_before = space;
    }
    tokens_.push_back({});
    return std::move(tokens_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }

  void push(TokenKind kind, std::string text) {
    Token token;
    token.kind = kind;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  void next() {
    const char c = peek();
    if (digit(c) || (c == '.' && digit(peek(1)))) return number();
    if (letter(c)) return letters();
    if (c == '\\') return command();
    if (c == '*' && peek(1) == '*') return at_ += 2, push(TokenKind::sign, "^");
    for (const char* two : {"<=", ">=", "!="})
      if (text_.substr(at_, 2) == two) return at_ += 2, push(TokenKind::sign, two[0] == '<' ? "l" : two[0] == '>' ? "g" : "n");
    push(TokenKind::sign, std::string(1, c));
    ++at_;
  }

  // Digits of a base below 17 with the base as a subscript: 152A_{11}
  bool based() {
    size_t end = at_;
    while (end < text_.size() && (digit(text_[end]) || (text_[end] >= 'A' && text_[end] <= 'F') || text_[end] == '.')) ++end;
    if (end >= text_.size() || text_[end] != '_') return false;
    push(TokenKind::text, "based:" + std::string(text_.substr(at_, end - at_)));
    at_ = end;
    return true;
  }

  // How many digits stand from `at`.
  size_t digits_at(size_t at) const {
    size_t end = at;
    while (end < text_.size() && digit(text_[end])) ++end;
    return end - at;
  }

  void number() {
    if (based()) return;
    std::string whole(text_.substr(at_, digits_at(at_))), fraction, repeated;
    at_ += whole.size();
    bool plain = !whole.empty();
    if (!whole.empty() && whole.size() <= 3 && (options_.thousands || text_.substr(at_, 3) == ",\\!"))
      while (true) {  // thousands: 1,234  1{,}234  1,\!234
        size_t at = at_;
        if (text_.substr(at, 3) == "{,}")
          at += 3;
        else if (peek() == ',') {
          ++at;
          const size_t comma = at;
          while (at < text_.size() && (text_[at] == ' ' || text_.substr(at, 2) == "\\!")) at += text_[at] == ' ' ? 1 : 2;
          if (text_.substr(comma, at - comma).find("\\!") == std::string_view::npos) at = comma;
          if (at == comma && !options_.thousands) break;
        } else
          break;
        if (digits_at(at) != 3) break;
        whole += text_.substr(at, 3);
        at_ = at + 3;
      }
    if (peek() == '.' && digit(peek(1))) {
      plain = false;
      fraction = text_.substr(at_ + 1, digits_at(at_ + 1));
      at_ += 1 + fraction.size();
    } else if (peek() == '.' && text_.substr(at_ + 1, 10) == "\\overline{") {
      plain = false;
      ++at_;
    }
    if (!plain && text_.substr(at_, 10) == "\\overline{") {  // 0.1\overline{6}
      const size_t count = digits_at(at_ + 10);
      if (count > 0 && at_ + 10 + count < text_.size() && text_[at_ + 10 + count] == '}') {
        repeated = text_.substr(at_ + 10, count);
        at_ += 11 + count;
      }
    }
    if (whole.size() + fraction.size() + repeated.size() > kMaxDigits) throw OverLimit{};
    push_number(whole, fraction, repeated, plain);
  }

  void push_number(const std::string& whole, const std::string& fraction, const std::string& repeated, bool plain) {
    const auto power_of_ten = [](unsigned long n) {
      mpz_class p;
      mpz_ui_pow_ui(p.get_mpz_t(), 10, n);
      return p;
    };
    mpq_class value(mpz_class("0" + whole + fraction, 10), power_of_ten(fraction.size()));
    value.canonicalize();
    if (!repeated.empty()) {
      mpq_class tail(mpz_class(repeated, 10), (power_of_ten(repeated.size()) - 1) * power_of_ten(fraction.size()));
      tail.canonicalize();
      value += tail;
    }
    if ((peek() == 'e' || peek() == 'E') && exponent(value)) plain = false;
    push(TokenKind::number, whole);
    tokens_.back().number = value;
    tokens_.back().plain_integer = plain;
  }

  // 1.5e-3; not 2e, and not 7e + 4
  bool exponent(mpq_class& value) {
    const size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
    const size_t count = digits_at(at_ + 1 + sign);
    if (count == 0) return false;
    const std::string_view digits = text_.substr(at_ + 1 + sign, count);
    const bool negative = peek(1) == '-';
    at_ += 1 + sign + count;
    const size_t first = std::min(digits.find_first_not_of('0'), digits.size());
    const long n = digits.size() - first > 6 ? kMaxExponent + 1 : first == digits.size() ? 0 : std::stol(std::string(digits.substr(first)));
    if (n > kMaxExponent) throw OverLimit{};
    mpz_class p;
    mpz_ui_pow_ui(p.get_mpz_t(), 10, static_cast<unsigned long>(n));
    if (negative)
      value /= p;
    else
      value *= p;
    return true;
  }

  // One run of letters: a function, a word (a unit, an answer in words), else a product of symbols.
  void letters() {
    size_t end = at_;
    while (end < text_.size() && letter(text_[end])) ++end;
    const std::string run(text_.substr(at_, end - at_));
    static const std::set<std::string, std::less<>> constants{"pi", "infinity", "inf", "infty", "and", "or", "sqrt"};
    if (run.size() > 1 && (is_function(run) || constants.count(run))) {
      at_ = end;
      if (run == "inf" || run == "infinity") return push(TokenKind::command, "infty");
      return push(run == "and" || run == "or" ? TokenKind::word : TokenKind::command, run);
    }
    if (run.size() > 3 || (run.size() > 1 && (after_number() || in_text_))) {
      at_ = end;
      return push(TokenKind::word, run);
    }
    for (const char c : run) push(unit_letter_ ? TokenKind::word : TokenKind::letters, std::string(1, c));
    at_ = end;
  }

  bool after_number() const {
    return !tokens_.empty() && (tokens_.back().kind == TokenKind::number || tokens_.back().text == "}") && at_ > 0 && text_[at_ - 1] == ' ';
  }

  void command() {
    size_t end = at_ + 1;
    while (end < text_.size() && letter(text_[end])) ++end;
    if (end == at_ + 1) end = std::min(text_.size(), at_ + 2);
    const std::string name(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end;
    if (name == "text") return text_block();
    push(TokenKind::command, name);
  }

  // \text{...}: its words as words, its numbers and signs as such.
  void text_block() {
    size_t open = at_;
    while (open < text_.size() && text_[open] == ' ') ++open;
    const size_t close = open < text_.size() && text_[open] == '{' ? text_.find('}', open) : std::string_view::npos;
    if (close == std::string_view::npos) return push(TokenKind::command, "text");
    std::string_view inside = text_.substr(open + 1, close - open - 1);
    while (!inside.empty() && (inside.back() == '.' || inside.back() == ' ')) inside.remove_suffix(1);
    Lexer inner(inside, options_);
    inner.in_text_ = true;
    inner.unit_letter_ = !tokens_.empty() && (tokens_.back().kind == TokenKind::number || tokens_.back().text == "}" || tokens_.back().text == ")");
    at_ = close + 1;
    std::vector<Token> tokens = inner.run();
    tokens.pop_back();
    if (tokens_.size() + tokens.size() > kMaxTokens) throw OverLimit{};
    for (Token& token : tokens) tokens_.push_back(std::move(token));
  }

  std::string_view text_;
  TokenOptions options_;
  size_t at_ = 0;
  bool in_text_ = false;
  bool unit_letter_ = false;  // in \text{} behind a number: "m" is a unit
  std::vector<Token> tokens_;
};

}  // namespace

bool is_function(std::string_view word) {
  static const std::set<std::string, std::less<>> names{"sin",  "cos",  "tan",  "cot", "sec", "csc", "arcsin", "arccos", "arctan",
                                                        "sinh", "cosh", "tanh", "ln",  "log", "exp", "abs",    "floor",  "ceil"};
  return names.count(word) > 0;
}

std::vector<Token> tokenize(std::string_view text, const TokenOptions& options) { return Lexer(text, options).run(); }

}  // namespace hone::rewards::math
