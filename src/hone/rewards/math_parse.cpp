// Answers as trees: recursive descent over the tokens, with bounded nesting.
#include <algorithm>
#include <set>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {
namespace {

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

  const Node* symbol(std::string name) {
    if (take_sign("_")) name += "_" + subscript();
    while (take_sign("'")) name += "'";
    if (name == "i" || name == "e") return make(Kind::constant, name, {});
    return make(Kind::symbol, name, {});
  }

  std::string subscript() {
    std::string text;
    const bool braces = take_sign("{");
    do {
      if (now().kind != TokenKind::number && now().kind != TokenKind::letters && now().kind != TokenKind::word) throw NoExpression{};
      text += now().text;
      ++at_;
    } while (braces && !is_sign("}"));
    if (braces) want_sign("}");
    return text;
  }

  const Node* based(const std::string& digits) {
    want_sign("_");
    const bool braces = take_sign("{");
    if (!now().plain_integer || now().number < 2 || now().number > 36) throw NoExpression{};
    const Node* base = number(now().number);
    ++at_;
    if (braces) want_sign("}");
    for (const char c : digits)
      if (c != '.' && (c <= '9' ? c - '0' : c - 'A' + 10) >= base->number) throw NoExpression{};
    return make(Kind::based, digits, {base});
  }

  const Node* signed_primary(const std::string& sign) {
    ++at_;
    if (sign == "(" || sign == "[") return bracket(sign);
    if (sign == "{") return group();
    if (sign != "|") throw NoExpression{};
    const Node* inside = sum();
    want_sign("|");
    return make(Kind::function, "abs", {inside});
  }

  const Node* bracket(const std::string& open) {
    std::vector<const Node*> elements = list(false);
    const std::string close = is_sign(")") ? ")" : "]";
    want_sign(close);
    if (elements.size() == 1) {
      if ((open == "(") != (close == ")")) throw NoExpression{};
      return elements[0];
    }
    return make(Kind::bracket, open + close, std::move(elements));
  }

  const Node* group() {
    std::vector<const Node*> elements = list(false);
    want_sign("}");
    return elements.size() == 1 ? elements[0] : make(Kind::set, "", std::move(elements));
  }

  const Node* function(const std::string& name) {
    const Node* base = nullptr;
    if (name == "log") base = take_sign("_") ? argument() : number(10);
    const Node* raised = nullptr;
    if (take_sign("^")) raised = exponent();
    const bool closed = is_sign("(") || is_sign("{");
    const Node* inside = signed_factor();
    while (!closed && starts_factor() && !is_sign("(") && !(now().kind == TokenKind::command && is_function(now().text)))
      inside = make(Kind::multiply, "", {inside, power()});
    const Node* result = base ? make(Kind::function, "log", {inside, base}) : make(Kind::function, name, {inside});
    return raised ? make(Kind::power, "", {result, raised}) : result;
  }

  const Node* root_of() {
    const Node* degree = nullptr;
    if (take_sign("[")) {
      degree = sum();
      want_sign("]");
    }
    return make(Kind::function, "root", {primary(), degree ? degree : number(2)});
  }

  const Node* matrix() {
    want_sign("{");
    if (now().kind != TokenKind::word) throw NoExpression{};
    const std::string name = now().text;
    ++at_;
    want_sign("}");
    if (name == "array") {
      want_sign("{");
      while (now().kind != TokenKind::end && !is_sign("}")) ++at_;
      want_sign("}");
    }
    if (name.find("matrix") == name.npos && name != "array") throw NoExpression{};
    std::vector<const Node*> rows, row;
    while (!take_command("end")) {
      row.push_back(sum());
      if (take_sign("&")) continue;
      const bool is_next = take_command("\\");
      if (!is_next && !is_command("end")) throw NoExpression{};
      rows.push_back(make(Kind::list, "", std::move(row)));
      row.clear();
    }
    want_sign("{");
    if (now().text != name) throw NoExpression{};
    ++at_;
    want_sign("}");
    if (rows.empty() || !row.empty()) throw NoExpression{};
    const Node* result = make(Kind::matrix, name == "vmatrix" ? "det" : "", std::move(rows));
    return result;
  }

  const Node* between(const char* name, const char* close) {
    const Node* inside = sum();
    if (!take_command(close)) throw NoExpression{};
    return make(Kind::function, name, {inside});
  }

  const Node* command(const std::string& name) {
    if (name == "frac") {
      const Node* top = argument();
      const Node* bottom = argument();
      return make(Kind::divide, "", {top, bottom});
    }
    if (name == "sqrt") return root_of();
    if (name == "pi") return make(Kind::constant, "pi", {});
    if (is_function(name)) return function(name);
    if (name == "begin") return matrix();
    if (name == "binom") {
      const Node* n = argument();
      return make(Kind::function, "binom", {n, argument()});
    }
    if (name == "{") {
      if (take_command("}")) return make(Kind::set, "", {});
      std::vector<const Node*> elements = list(true);
      if (!take_command("}")) throw NoExpression{};
      return make(Kind::set, "", std::move(elements));
    }
    if (name == "lfloor") return between("floor", "rfloor");
    if (name == "lceil") return between("ceil", "rceil");
    static const std::set<std::string, std::less<>> clear{"overline", "vec", "bar", "hat", "overrightarrow", "widehat", "angle", "triangle", "tilde"};
    if (clear.count(name)) return primary();
    static const std::set<std::string, std::less<>> symbols{
        "infty", "emptyset", "alpha", "beta",  "gamma",  "delta", "epsilon", "varepsilon", "zeta",  "eta",    "theta", "iota",
        "kappa", "lambda",   "mu",    "nu",    "xi",     "rho",   "sigma",   "tau",        "phi",   "varphi", "chi",   "psi",
        "omega", "Gamma",    "Delta", "Theta", "Lambda", "Sigma", "Phi",     "Psi",        "Omega", "ell"};
    if (symbols.count(name)) return symbol("\\" + name);
    throw NoExpression{};
  }

  std::vector<Token> tokens_;
  Steps& steps_;
  ParsedAnswer& out_;
  size_t at_ = 0;
  int depth_ = 0;
  bool plus_ = true, saw_sign_choice_ = false;
};

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
