#include "hone/text/jinja_lexer.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "hone/base/error.h"
#include "hone/text/utf8.h"

namespace hone::text::jinja {
namespace {

constexpr size_t max_source = size_t{1} << 20;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Jinja reads every kind of line end as "\n" and drops one at the end of the source.
std::string normalised(const std::string& source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(const std::string& source) : source_(normalised(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = next_tag(at_);
      std::string text = source_.substr(at_, tag - at_);
      if (tag == source_.size()) {
        push_text(text);
        at_ = tag;
        break;
      }
      const char kind = source_[tag + 1];
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      std::string kept = strip_before(text, kind, sign);
      push_text(kept);
      line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n'));
      at_ = tag + 2 + (sign == '-' || sign == '+');
      if (kind == '#')
        comment();
      else
        expression(kind);
    }
    push(TokenKind::end);
    return std::move(tokens_);
  }

 private:
  size_t next_tag(size_t from) const {
    for (size_t at = source_.find('{', from); at != std::string::npos; at = source_.find('{', at + 1))
      if (at + 1 < source_.size() && (source_[at + 1] == '{' || source_[at + 1] == '%' || source_[at + 1] == '#')) return at;
    return source_.size();
  }

  // "-" takes all white space before the tag; without "+", a block or comment that stands first on its line takes the indentation.
  std::string strip_before(std::string text, char kind, char sign) const {
    if (sign == '-') {
      while (!text.empty() && is_space(text.back())) text.pop_back();
    } else if (sign != '+' && kind != '{') {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && std::all_of(text.begin() + static_cast<ptrdiff_t>(start), text.end(), is_space)) text.resize(start);
    }
    return text;
  }

  void push_text(const std::string& text) {
    if (!text.empty()) push(TokenKind::text, text);
  }

  void push(TokenKind kind, std::string text = {}) {
    Token token{kind, std::move(text)};
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  // Behind a closing tag: "-" takes all white space; blocks and comments take one newline unless they end with "+".
  void after_close(char sign, bool trims) {
    const size_t begin = at_;
    if (sign == '-') {
      while (at_ < source_.size() && is_space(source_[at_])) ++at_;
    } else if (trims && sign != '+' && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(begin), source_.begin() + static_cast<ptrdiff_t>(at_), '\n'));
    line_starting_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  void comment() {
    const size_t close = source_.find("#}", at_);
    if (close == std::string::npos) fail("chat template line {}: a comment is not closed", line_);
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_), source_.begin() + static_cast<ptrdiff_t>(close), '\n'));
    const char sign = close > at_ ? source_[close - 1] : '\0';
    at_ = close + 2;
    after_close(sign, true);
  }

  void expression(char kind) {
    const bool print = kind == '{';
    push(print ? TokenKind::print_begin : TokenKind::block_begin);
    const std::string_view close = print ? "}}" : "%}";
    int braces = 0;  // a "}}" that closes a nested mapping does not end the tag
    for (;;) {
      while (at_ < source_.size() && is_space(source_[at_])) line_ += source_[at_++] == '\n';
      if (at_ >= source_.size()) fail("chat template line {}: a tag is not closed", line_);
      const std::string_view rest = std::string_view(source_).substr(at_);
      const bool signed_close = (rest[0] == '-' || rest[0] == '+') && rest.substr(1, 2) == close;
      if (braces == 0 && (signed_close || rest.substr(0, 2) == close)) {
        const char sign = signed_close ? rest[0] : '\0';
        at_ += signed_close ? 3 : 2;
        push(print ? TokenKind::print_end : TokenKind::block_end);
        after_close(sign, !print);
        return;
      }
      if (rest[0] == '{') ++braces;
      if (rest[0] == '}') --braces;
      token(rest);
    }
  }

  void token(std::string_view rest) {
    const char c = rest[0];
    if (c == '"' || c == '\'') return string(c);
    if (is_digit(c)) return number(rest);
    if (is_name_start(c)) {
      size_t end = 1;
      while (end < rest.size() && (is_name_start(rest[end]) || is_digit(rest[end]))) ++end;
      at_ += end;
      return push(TokenKind::name, std::string(rest.substr(0, end)));
    }
    for (const std::string_view symbol :
         {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ".", ",", ":", "|", ";"})
      if (rest.substr(0, symbol.size()) == symbol) {
        at_ += symbol.size();
        return push(TokenKind::symbol, std::string(symbol));
      }
    fail("chat template line {}: unexpected character '{}'", line_, c);
  }

  void number(std::string_view rest) {
    size_t end = 1;
    while (end < rest.size() && is_digit(rest[end])) ++end;
    bool whole = true;
    if (end + 1 < rest.size() && rest[end] == '.' && is_digit(rest[end + 1])) {
      whole = false;
      for (++end; end < rest.size() && is_digit(rest[end]);) ++end;
    }
    const std::string text(rest.substr(0, end));
    if (end > 18) fail("chat template line {}: the number {} is too long", line_, text);
    push(whole ? TokenKind::integer : TokenKind::number, text);
    tokens_.back().integer = std::strtoll(text.c_str(), nullptr, 10);
    tokens_.back().number = std::strtod(text.c_str(), nullptr);
    at_ += end;
  }

  void string(char quote) {
    const int line = line_;
    std::string out;
    for (++at_; at_ < source_.size() && source_[at_] != quote; ++at_) {
      if (source_[at_] == '\n') ++line_;
      if (source_[at_] != '\\') {
        out += source_[at_];
      } else if (++at_ < source_.size()) {
        escape(out);
      }
    }
    if (at_ >= source_.size()) fail("chat template line {}: a string is not closed", line);
    ++at_;
    push(TokenKind::string, std::move(out));
  }

  void escape(std::string& out) {
    static constexpr std::string_view from = "nrtbfav0\\'\"", to = std::string_view("\n\r\t\b\f\a\v\0\\'\"", 11);
    const char c = source_[at_];
    if (c == '\n') {  // a continued line
      ++line_;
    } else if (const size_t found = from.find(c); found != std::string_view::npos) {
      out += to[found];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      const std::string hex = source_.substr(at_ + 1, digits);
      if (hex.size() != digits || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
        fail("chat template line {}: \\{} needs {} hexadecimal digits", line_, c, digits);
      const unsigned long code = std::strtoul(hex.c_str(), nullptr, 16);
      if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) fail("chat template line {}: \\{}{} is not a character", line_, c, hex);
      utf8_append(out, static_cast<uint32_t>(code));
      at_ += digits;
    } else {
      out += '\\';
      out += c;
    }
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> lex(const std::string& source) {
  if (source.size() > max_source) fail("chat template: longer than {} bytes", max_source);
  if (const size_t bad = utf8_invalid_at(source); bad != std::string::npos) fail("chat template: byte {} is not valid UTF-8", bad);
  return Lexer(source).run();
}

}  // namespace hone::text::jinja
