#pragma once
// Syntax tree of the Jinja interpreter. Private to it.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hone/text/jinja_value.h"

namespace hone::text::jinja {

enum class ExprKind {
  literal,      // value
  name,         // text
  list,         // args (tuples too)
  dict,         // args: key, value, key, value ...
  attribute,    // args[0].text
  item,         // args[0][args[1]]
  slice,        // args[0][args[1]:args[2]:args[3]]; absent ones are null
  call,         // args[0](args[1...], keywords)
  filter,       // args[0] | text(args[1...], keywords)
  test,         // args[0] is text(args[1...]); negated: is not
  negate,       // -args[0]
  logical_not,  // not args[0]
  binary,       // args[0] text args[1], text in + - * / // % ~
  compare,      // args[0] names[0] args[1] names[1] args[2] ...
  logical_and,
  logical_or,
  conditional,  // args[0] if args[1] else args[2] (null: undefined)
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind = ExprKind::literal;
  int line = 1;
  int depth = 1;  // of the tree: bounded, so that evaluation and destruction cannot run out of stack
  std::string text;
  bool negated = false;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::string> names;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
};

enum class StatementKind { text, print, if_, for_, set, set_block, group, break_, continue_ };

struct Statement {
  StatementKind kind = StatementKind::text;
  int line = 1;
  std::string text;                            // text: the bytes; set: a namespace's name when `attribute` is set
  std::vector<std::string> names;              // for_, set, set_block: targets
  std::string attribute;                       // set: the namespace's member
  std::vector<ExprPtr> exprs;                  // print, set: [value]; if_: one condition per branch; for_: [iterable, filter or null]
  std::vector<std::vector<Statement>> bodies;  // if_: one per condition, then else; for_: [body, else]; set_block, group: [body]
};

std::vector<Statement> parse(const std::string& source);

}  // namespace hone::text::jinja
