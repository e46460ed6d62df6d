#pragma once
// An answer as a tree, and how text becomes one.
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hone/rewards/math_value.h"

namespace hone::rewards::math {

inline bool digit(char c) { return c >= '0' && c <= '9'; }
inline bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

enum class Kind {
  number,    // `number`
  symbol,    // `name`: a variable, infinity, anything without a value of its own
  constant,  // `name`: pi, e, i
  add,       // sum of the children
  multiply,  // product of the children
  divide,    // children 0 / 1
  power,     // children 0 ^ 1
  negate,
  function,  // `name` of child 0; "root" of child 0 to the degree child 1; "log" of child 0 to the base child 1; "binom"
  degree,    // child 0 in degrees
  percent,   // child 0 in per cent
  based,     // `name` holds the digits, child 0 the base
  ratio,     // children a : b : ...
  list,      // several answers, in no order
  set,       // {a, b}
  bracket,   // `name` holds the two brackets: a tuple, an interval, a point
  join,      // union (`name` "cup"), intersection, difference of sets
  matrix,    // the rows are children, each a list
  relation,  // children a R b S c ...; `name` holds one character for each relation: = < > l (<=) g (>=) n (not equal) e (element of)
  words,     // `name`: an answer in words
};

struct Node {
  Kind kind = Kind::number;
  std::string name;
  mpq_class number;
  std::vector<const Node*> children;
};

/// One answer. Nodes point to nodes and live as long as the tree: it moves, but is never copied.
struct Tree {
  Tree() = default;
  Tree(Tree&&) = default;
  Tree& operator=(Tree&&) = default;
  Tree(const Tree&) = delete;
  Tree& operator=(const Tree&) = delete;

  std::deque<Node> nodes;
  const Node* root = nullptr;
};

/// What stands at the start or end of an answer and is no part of its value.
struct Unit {
  std::string name;  // "cm", "pounds"; empty: none
};

struct ParsedAnswer {
  Tree tree;
  Unit unit;
  bool is_words = false;  // no expression: compared as words
};

/// Tokens of an answer (math_tokens.cpp).
enum class TokenKind { number, letters, word, command, text, sign, end };
struct Token {
  TokenKind kind = TokenKind::end;
  std::string text;  // number: its digits; letters: one symbol; word: a run of letters that is no product; command: without the backslash
  mpq_class number;
  bool space_before = false;
  bool plain_integer = false;  // a number of digits alone
};
struct TokenOptions {
  bool thousands = true;  // 1,234 is one number
};
/// OverLimit for too many tokens or digits. Unknown characters become signs of their own, which the parser refuses.
std::vector<Token> tokenize(std::string_view text, const TokenOptions& options);
bool is_function(std::string_view word);

/// LaTeX and Unicode brought to the few forms that the tokens know: \left and spacing removed, \dfrac to \frac, signs to ASCII or commands.
std::string cleaned(std::string_view text);
/// The answer as words: lower case, one space between words, no punctuation, no \text{}; single letters keep their case.
std::string as_words(std::string_view text);

/// Reads a cleaned answer. `sign` is what \pm stands for ("+" or "-"). An answer that is no expression is words where it is made of
/// words, else false.
bool parse_answer(std::string_view cleaned_text, const TokenOptions& options, Steps& steps, ParsedAnswer& out);

/// Whether two answers are equal.
bool equal_answers(const ParsedAnswer& given, const ParsedAnswer& gold, Steps& steps);
/// Where and how an expression is evaluated.
struct Point {
  int index = 0;                   // which values the variables take
  bool percent_is_number = false;  // 44% is 44, not 0.44
  bool digits_only = false;        // 221_3 is 221
  bool in_function = false;        // degrees are converted
};
/// Undefined where it has no value.
Value evaluate(const Node& node, const Point& point, Steps& steps);
/// Whether a node of this kind occurs.
bool contains(const Node& node, Kind kind);
/// Whether it has one value: no list, set, relation, words.
bool is_expression(const Node& node);

}  // namespace hone::rewards::math
