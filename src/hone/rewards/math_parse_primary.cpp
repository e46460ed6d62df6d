// What a factor of an answer may be: numbers, symbols, brackets, functions, roots, matrices.
#include "hone/rewards/math_parser.h"

namespace hone::rewards::math {

const Node* Parser::symbol(std::string name) {
  if (take_sign("_")) name += "_" + subscript();
  while (take_sign("'")) name += "'";
  if (name == "i" || name == "e") return make(Kind::constant, name, {});
  return make(Kind::symbol, name, {});
}

std::string Parser::subscript() {
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

const Node* Parser::based(const std::string& digits) {
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

const Node* Parser::signed_primary(const std::string& sign) {
  ++at_;
  if (sign == "(" || sign == "[") return bracket(sign);
  if (sign == "{") return group();
  if (sign != "|") throw NoExpression{};
  const Node* inside = sum();
  want_sign("|");
  return make(Kind::function, "abs", {inside});
}

const Node* Parser::bracket(const std::string& open) {
  std::vector<const Node*> elements = list(false);
  const std::string close = is_sign(")") ? ")" : "]";
  want_sign(close);
  if (elements.size() == 1) {
    if ((open == "(") != (close == ")")) throw NoExpression{};
    return elements[0];
  }
  return make(Kind::bracket, open + close, std::move(elements));
}

const Node* Parser::group() {
  std::vector<const Node*> elements = list(false);
  want_sign("}");
  return elements.size() == 1 ? elements[0] : make(Kind::set, "", std::move(elements));
}

const Node* Parser::function(const std::string& name) {
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

const Node* Parser::root_of() {
  const Node* degree = nullptr;
  if (take_sign("[")) {
    degree = sum();
    want_sign("]");
  }
  return make(Kind::function, "root", {primary(), degree ? degree : number(2)});
}

const Node* Parser::matrix() {
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

const Node* Parser::between(const char* name, const char* close) {
  const Node* inside = sum();
  if (!take_command(close)) throw NoExpression{};
  return make(Kind::function, name, {inside});
}

const Node* Parser::command(const std::string& name) {
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
  static const std::set<std::string, std::less<>> symbols{"infty", "emptyset", "alpha", "beta",   "gamma",  "delta", "epsilon", "varepsilon", "zeta",
                                                          "eta",   "theta",    "iota",  "kappa",  "lambda", "mu",    "nu",      "xi",         "rho",
                                                          "sigma", "tau",      "phi",   "varphi", "chi",    "psi",   "omega",   "Gamma",      "Delta",
                                                          "Theta", "Lambda",   "Sigma", "Phi",    "Psi",    "Omega", "ell"};
  if (symbols.count(name)) return symbol("\\" + name);
  throw NoExpression{};
}

}  // namespace hone::rewards::math
