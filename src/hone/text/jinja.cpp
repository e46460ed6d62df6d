// The interpreter proper: statements and expressions of a parsed template over scopes of variables.
#include "hone/text/jinja.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/text/jinja_ast.h"
#include "hone/text/jinja_builtins.h"

namespace hone::text::jinja {
namespace {

constexpr int64_t max_steps = 1'000'000;        // statements and expressions evaluated
constexpr size_t max_output = size_t{1} << 24;  // bytes written
constexpr size_t max_work = size_t{1} << 28;    // bytes of strings made on the way

class Interpreter {
 public:
  explicit Interpreter(const Dict& variables) { scopes_.push_back(variables); }

  Output run(const std::vector<Statement>& body) {
    execute(body);
    return std::move(out_);
  }

 private:
  enum class Flow { next, break_, continue_ };

  void step(int line) {
    if (++steps_ > max_steps) fail("chat template line {}: more than {} steps; does a loop multiply itself?", line, max_steps);
  }

  Flow execute(const std::vector<Statement>& body) {
    for (const Statement& statement : body)
      if (const Flow flow = execute(statement); flow != Flow::next) return flow;
    return Flow::next;
  }

  Flow execute(const Statement& statement) {
    step(statement.line);
    switch (statement.kind) {
      case StatementKind::text:
        write(statement.text, statement.line);
        return Flow::next;
      case StatementKind::print:
        write(to_text(evaluate(*statement.exprs[0])), statement.line);
        return Flow::next;
      case StatementKind::if_:
        for (size_t i = 0; i < statement.exprs.size(); ++i)
          if (truth(evaluate(*statement.exprs[i]))) return execute(statement.bodies[i]);
        return statement.bodies.size() > statement.exprs.size() ? execute(statement.bodies.back()) : Flow::next;
      case StatementKind::for_:
        return loop(statement);
      case StatementKind::set:
        assign(statement, evaluate(*statement.exprs[0]));
        return Flow::next;
      case StatementKind::set_block: {
        Output outer = std::move(out_);
        out_ = {};
        const Flow flow = execute(statement.bodies[0]);
        Text text{std::move(out_.text), std::move(out_.origin)};
        out_ = std::move(outer);
        scopes_.back().set(statement.names[0], make_string(std::move(text)));
        return flow;
      }
      case StatementKind::group:
        return execute(statement.bodies[0]);
      case StatementKind::break_:
        return Flow::break_;
      case StatementKind::continue_:
        return Flow::continue_;
    }
    return Flow::next;
  }

  void write(std::string_view bytes, int line) {
    room(bytes.size(), line);
    out_.text.append(bytes);
    out_.origin.insert(out_.origin.end(), bytes.size(), no_origin);
    out_.turn.insert(out_.turn.end(), bytes.size(), turn_);
  }

  void write(const Text& text, int line) {
    room(text.bytes.size(), line);
    out_.text.append(text.bytes);
    out_.origin.insert(out_.origin.end(), text.origin.begin(), text.origin.end());
    out_.turn.insert(out_.turn.end(), text.bytes.size(), turn_);
  }

  void room(size_t more, int line) const {
    if (out_.text.size() + more > max_output) fail("chat template line {}: the text grows over {} bytes", line, max_output);
  }

  void bind(const std::vector<std::string>& names, const Value& value, int line) {
    if (names.size() == 1) return scopes_.back().set(names[0], value);
    if (value.kind != Kind::list || value.list->size() != names.size())
      fail("chat template line {}: {} names for a {} of another size", line, names.size(), kind_name(value));
    for (size_t i = 0; i < names.size(); ++i) scopes_.back().set(names[i], (*value.list)[i]);
  }

  void assign(const Statement& statement, const Value& value) {
    if (statement.attribute.empty()) return bind(statement.names, value, statement.line);
    const Value target = lookup(statement.names[0]);
    if (target.kind != Kind::dict || !target.dict->is_namespace)
      fail("chat template line {}: {}.{} can only be set when {} is a namespace", statement.line, statement.names[0], statement.attribute,
           statement.names[0]);
    refuse_namespace(value, statement.line);
    target.dict->set(statement.attribute, value);
  }

  // A namespace within a namespace could hold itself, and would never be freed.
  static void refuse_namespace(const Value& value, int line) {
    if (value.kind == Kind::dict) {
      if (value.dict->is_namespace) fail("chat template line {}: a namespace within another value is not supported", line);
      for (const auto& [key, item] : value.dict->items) refuse_namespace(item, line);
    } else if (value.kind == Kind::list) {
      for (const Value& item : *value.list) refuse_namespace(item, line);
    }
  }

  Flow loop(const Statement& statement) {
    List items = iterate(evaluate(*statement.exprs[0]), statement.line);
    scopes_.emplace_back();
    if (statement.exprs[1]) {
      List kept;
      for (const Value& item : items) {
        bind(statement.names, item, statement.line);
        if (truth(evaluate(*statement.exprs[1]))) kept.push_back(item);
      }
      items = std::move(kept);
    }
    const int32_t outer_turn = turn_;
    for (size_t i = 0; i < items.size(); ++i) {
      step(statement.line);
      scopes_.back().items.clear();
      bind(statement.names, items[i], statement.line);
      scopes_.back().set("loop", loop_variable(items, i));
      if (items[i].kind == Kind::dict && items[i].dict->message >= 0) turn_ = items[i].dict->message;
      const Flow flow = execute(statement.bodies[0]);
      turn_ = outer_turn;
      if (flow == Flow::break_) break;
    }
    scopes_.pop_back();
    if (items.empty() && statement.bodies.size() > 1) return execute(statement.bodies[1]);
    return Flow::next;
  }

  static Value loop_variable(const List& items, size_t i) {
    const auto at = static_cast<int64_t>(i), count = static_cast<int64_t>(items.size());
    Dict loop;
    loop.items = {
        {"index", make_int(at + 1)}, {"index0", make_int(at)},           {"first", make_bool(i == 0)},           {"last", make_bool(at + 1 == count)},
        {"length", make_int(count)}, {"revindex", make_int(count - at)}, {"revindex0", make_int(count - at - 1)}};
    if (i > 0) loop.items.emplace_back("previtem", items[i - 1]);
    if (i + 1 < items.size()) loop.items.emplace_back("nextitem", items[i + 1]);
    return make_dict(std::move(loop));
  }

  Value lookup(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
      if (const Value* found = scope->find(name)) return *found;
    return {};
  }

  Value evaluate(const Expr& expr) {
    step(expr.line);
    switch (expr.kind) {
      case ExprKind::literal:
        return expr.value;
      case ExprKind::name:
        return lookup(expr.text);
      case ExprKind::list: {
        List out;
        for (const ExprPtr& item : expr.args) out.push_back(evaluate(*item));
        return make_list(std::move(out));
      }
      case ExprKind::dict:
        return dict(expr);
      case ExprKind::attribute:
        return get_item(evaluate(*expr.args[0]), make_string(expr.text), expr.line);
      case ExprKind::item:
        return get_item(evaluate(*expr.args[0]), evaluate(*expr.args[1]), expr.line);
      case ExprKind::logical_not:
        return make_bool(!truth(evaluate(*expr.args[0])));
      case ExprKind::logical_and: {
        Value left = evaluate(*expr.args[0]);
        return truth(left) ? evaluate(*expr.args[1]) : left;
      }
      case ExprKind::logical_or: {
        Value left = evaluate(*expr.args[0]);
        return truth(left) ? left : evaluate(*expr.args[1]);
      }
      case ExprKind::conditional:
        if (truth(evaluate(*expr.args[1]))) return evaluate(*expr.args[0]);
        return expr.args[2] ? evaluate(*expr.args[2]) : Value{};
      case ExprKind::compare:
        return compare(expr);
      case ExprKind::test:
        return make_bool(apply_test(expr.text, evaluate(*expr.args[0]), arguments(expr)) != expr.negated);
      case ExprKind::negate:
        return apply_binary("-", make_int(0), evaluate(*expr.args[0]), expr.line);
      default:
        return counted(make(expr), expr.line);
    }
  }

  // The kinds that make new strings or lists.
  Value make(const Expr& expr) {
    switch (expr.kind) {
      case ExprKind::binary: {
        const Value left = evaluate(*expr.args[0]);
        return apply_binary(expr.text, left, evaluate(*expr.args[1]), expr.line);
      }
      case ExprKind::filter: {
        const Value value = evaluate(*expr.args[0]);
        return apply_filter(expr.text, value, arguments(expr));
      }
      case ExprKind::slice: {
        const Value container = evaluate(*expr.args[0]);
        Value parts[3];
        const Value* given[3] = {};
        for (size_t i = 0; i < 3; ++i)
          if (expr.args[i + 1]) parts[i] = evaluate(*expr.args[i + 1]), given[i] = &parts[i];
        return slice(container, given[0], given[1], given[2], expr.line);
      }
      default:
        return call(expr);
    }
  }

  Value counted(Value value, int line) {
    if (value.kind == Kind::string) work_ += value.string->bytes.size();
    if (value.kind == Kind::list) work_ += value.list->size() * sizeof(Value);
    if (work_ > max_work) fail("chat template line {}: more than {} bytes of intermediate strings", line, max_work);
    return value;
  }

  Value compare(const Expr& expr) {
    Value left = evaluate(*expr.args[0]);
    for (size_t i = 0; i < expr.names.size(); ++i) {
      Value right = evaluate(*expr.args[i + 1]);
      if (!apply_compare(expr.names[i], left, right, expr.line)) return make_bool(false);
      left = std::move(right);
    }
    return make_bool(true);
  }

  Value dict(const Expr& expr) {
    Dict out;
    for (size_t i = 0; i < expr.args.size(); i += 2) {
      const Value key = evaluate(*expr.args[i]);
      if (key.kind != Kind::string) fail("chat template line {}: a mapping's keys must be strings, found {}", expr.line, kind_name(key));
      out.set(key.string->bytes, evaluate(*expr.args[i + 1]));
    }
    return make_dict(std::move(out));
  }

  // args[0] is what the call, filter or test applies to.
  Arguments arguments(const Expr& expr) {
    Arguments out;
    out.line = expr.line;
    for (size_t i = 1; i < expr.args.size(); ++i) out.positional.push_back(evaluate(*expr.args[i]));
    for (const auto& [key, value] : expr.keywords) out.keywords.emplace_back(key, evaluate(*value));
    return out;
  }

  Value call(const Expr& expr) {
    const Expr& callee = *expr.args[0];
    if (callee.kind == ExprKind::attribute) {
      const Value object = evaluate(*callee.args[0]);
      return call_method(callee.text, object, arguments(expr));
    }
    const Arguments given = arguments(expr);
    if (callee.text != "namespace" && callee.text != "dict") return call_function(callee.text, given);
    if (!given.positional.empty()) fail("chat template line {}: {}() takes only named arguments here", expr.line, callee.text);
    Dict out;
    out.is_namespace = callee.text == "namespace";
    for (const auto& [key, value] : given.keywords) {
      if (out.is_namespace) refuse_namespace(value, expr.line);
      out.set(key, value);
    }
    return make_dict(std::move(out));
  }

  std::vector<Dict> scopes_;
  Output out_;
  int32_t turn_ = -1;
  int64_t steps_ = 0;
  size_t work_ = 0;
};

}  // namespace

Template::Template(const std::string& source) : body_(std::make_shared<const std::vector<Statement>>(parse(source))) {}

Output Template::render(const Dict& variables) const { return Interpreter(variables).run(*body_); }

}  // namespace hone::text::jinja
