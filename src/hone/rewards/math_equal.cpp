// When two answers are equal.
#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "hone/rewards/math_tree.h"

namespace hone::rewards::math {
namespace {

constexpr int kGoodPoints = 4;  // where expressions with variables are compared
constexpr int kTries = 12;      // points tried to find so many at which both have values

class Comparer {
 public:
  explicit Comparer(Steps& steps) : steps_(steps) {}

  // `given` and `gold` in that order wherever the two are not treated alike.
  bool same(const Node& given, const Node& gold) {
    steps_.take(4);
    if (is_expression(given) && is_expression(gold)) return same_value(given, gold);
    const Node* a = plain(&given);
    const Node* b = plain(&gold);
    if (a->kind == Kind::relation || b->kind == Kind::relation) return same_relation(*a, *b);
    if (a->kind == Kind::ratio || b->kind == Kind::ratio) return same_ratio(*a, *b);
    if (is_vector(*a) && is_vector(*b)) return same_elements(elements(*a), elements(*b));
    const auto is_collection = [](const Node* n) { return n->kind == Kind::list || n->kind == Kind::set; };
    if (is_collection(a) && is_collection(b)) return same_unordered(a->children, b->children);
    if (a->kind != b->kind || a->name != b->name)
      return a != &given || b != &gold ? is_expression(*a) && is_expression(*b) && same_value(*a, *b) : false;
    if (a->kind == Kind::join && a->name != "setminus") return same_unordered(a->children, b->children);
    if (a->kind == Kind::words) return true;
    if (a->kind == Kind::matrix)  // its rows are lists, but ordered ones
      return std::equal(a->children.begin(), a->children.end(), b->children.begin(), b->children.end(),
                        [this](const Node* x, const Node* y) { return same_elements(x->children, y->children); });
    if (is_expression(*a)) return same_value(*a, *b);
    return same_elements(a->children, b->children);
  }

 private:
  const Node* make(Kind kind, std::string name, std::vector<const Node*> children) {
    nodes_.push_back({kind, std::move(name), {}, std::move(children)});
    return &nodes_.back();
  }

  // A multiple of a matrix as a matrix, inequalities of one variable as intervals, "x in S" as S.
  const Node* plain(const Node* node) {
    if (const Node* matrix = scaled_matrix(node)) return matrix;
    if (node->kind == Kind::relation && node->name == "e" && node->children[0]->kind == Kind::symbol) return plain(node->children[1]);
    if (const Node* interval = as_interval(node)) return interval;
    if (node->kind != Kind::list) return node;
    std::vector<const Node*> parts;
    for (const Node* child : node->children) {
      const Node* interval = as_interval(child);
      if (!interval) return node;
      parts.push_back(interval);
    }
    return make(Kind::join, "cup", std::move(parts));  // x < -1 or x > 3
  }

  const Node* scaled_matrix(const Node* node) {
    if (node->kind != Kind::multiply && node->kind != Kind::negate && node->kind != Kind::divide) return nullptr;
    const Node* matrix = nullptr;
    for (const Node* child : node->children) {
      const Node* inner = child->kind == Kind::matrix ? child : scaled_matrix(child);
      if (!inner) continue;
      if (matrix || (node->kind == Kind::divide && child == node->children[1])) return nullptr;
      matrix = inner;
    }
    if (!matrix) return nullptr;
    std::vector<const Node*> rows;
    for (const Node* row : matrix->children) {
      std::vector<const Node*> cells;
      for (const Node* cell : row->children) {
        steps_.take(4);
        std::vector<const Node*> factors = node->children;
        for (const Node*& factor : factors)
          if (contains(*factor, Kind::matrix)) factor = cell;
        cells.push_back(make(node->kind, node->name, std::move(factors)));
      }
      rows.push_back(make(Kind::list, "", std::move(cells)));
    }
    return make(Kind::matrix, matrix->name, std::move(rows));
  }

  // 2 < x <= 5 as (2, 5]; x > 3 as (3, infinity).
  const Node* as_interval(const Node* node) {
    if (node->kind != Kind::relation || node->children.size() > 3) return nullptr;
    const bool up = node->name.find_first_not_of("<l") == std::string::npos, down = node->name.find_first_not_of(">g") == std::string::npos;
    if (!up && !down) return nullptr;
    std::vector<const Node*> sides = node->children;
    std::string relations = node->name;
    if (down) {
      std::reverse(sides.begin(), sides.end());
      std::reverse(relations.begin(), relations.end());
    }
    const auto closed = [](char r) { return r == 'l' || r == 'g'; };
    const Node* infinity = make(Kind::symbol, "\\infty", {});
    const Node* middle = sides[1];
    if (sides.size() == 2) {
      const bool below = sides[0]->kind == Kind::symbol && !contains(*sides[1], Kind::symbol);  // x < 3
      const bool above = sides[1]->kind == Kind::symbol && !contains(*sides[0], Kind::symbol);  // 3 < x
      if (below) return make(Kind::bracket, closed(relations[0]) ? "(]" : "()", {make(Kind::negate, "", {infinity}), sides[1]});
      if (above) return make(Kind::bracket, closed(relations[0]) ? "[)" : "()", {sides[0], infinity});
      return nullptr;
    }
    if (middle->kind != Kind::symbol) return nullptr;
    return make(Kind::bracket, std::string(closed(relations[0]) ? "[" : "(") + (closed(relations[1]) ? "]" : ")"), {sides[0], sides[2]});
  }

  static bool is_vector(const Node& node) {
    if (node.kind == Kind::bracket) return node.name == "()";
    if (node.kind != Kind::matrix || !node.name.empty()) return false;
    return node.children.size() == 1 ||
           std::all_of(node.children.begin(), node.children.end(), [](const Node* row) { return row->children.size() == 1; });
  }
  static std::vector<const Node*> elements(const Node& vector) {
    if (vector.kind == Kind::bracket) return vector.children;
    std::vector<const Node*> all;
    for (const Node* row : vector.children) all.insert(all.end(), row->children.begin(), row->children.end());
    return all;
  }

  bool same_elements(const std::vector<const Node*>& a, const std::vector<const Node*>& b) {
    return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [this](const Node* x, const Node* y) { return same(*x, *y); });
  }

  bool same_unordered(const std::vector<const Node*>& a, const std::vector<const Node*>& b) {
    if (a.size() != b.size()) return false;
    std::vector<bool> used(a.size());
    for (const Node* wanted : b) {
      size_t i = 0;
      while (i < a.size() && (used[i] || !same(*a[i], *wanted))) ++i;
      if (i == a.size()) return false;
      used[i] = true;
    }
    return true;
  }

  // y, f(x), P: what an equation merely names.
  static bool is_name(const Node& node) {
    if (node.kind == Kind::symbol) return true;
    return node.kind == Kind::multiply &&
           std::all_of(node.children.begin(), node.children.end(), [](const Node* c) { return c->kind == Kind::symbol; });
  }
  static bool is_equation(const Node& node) { return node.kind == Kind::relation && node.name.find_first_not_of('=') == std::string::npos; }

  bool same_relation(const Node& a, const Node& b) {
    if (a.kind != b.kind) {  // x = 3 against 3; also 1 + 2 = 3
      const Node& equation = a.kind == Kind::relation ? a : b;
      if (!is_equation(equation)) return false;
      const bool named = is_name(*equation.children[0]) || !contains(*equation.children[0], Kind::symbol);
      if (!named) return false;
      return a.kind == Kind::relation ? same(*a.children.back(), b) : same(a, *b.children.back());
    }
    if (a.children.size() == 2 && b.children.size() == 2 && a.name == b.name) {
      if (is_expression(a) || std::all_of(a.children.begin(), a.children.end(), [](const Node* c) { return is_expression(*c); })) {
        if (std::all_of(b.children.begin(), b.children.end(), [](const Node* c) { return is_expression(*c); }))
          return same_elements(a.children, b.children) || proportional(a, b);
      }
      return same_elements(a.children, b.children);
    }
    return same_elements(upward(a), upward(b)) && upward_relations(a) == upward_relations(b);
  }

  static std::string upward_relations(const Node& node) {
    std::string r = node.name;
    if (r.find_first_of(">g") == r.npos) return r;
    std::reverse(r.begin(), r.end());
    for (char& c : r) c = c == '>' ? '<' : c == 'g' ? 'l' : c == '<' ? '>' : c == 'l' ? 'g' : c;
    return r;
  }
  static std::vector<const Node*> upward(const Node& node) {
    std::vector<const Node*> sides = node.children;
    if (node.name.find_first_of(">g") != node.name.npos) std::reverse(sides.begin(), sides.end());
    return sides;
  }

  // Two equations (or inequalities) say the same when left - right of one is a constant (positive) multiple of that of the other.
  bool proportional(const Node& a, const Node& b) {
    std::vector<Value> ratios;
    const bool signed_ratio = a.name != "=" && a.name != "n";
    for (int i = 0; i < kTries && ratios.size() < kGoodPoints; ++i) {
      try {
        const Point point{i, false, false, false};
        const auto difference = [&](const Node& n) {
          return subtract(evaluate(*n.children[0], point, steps_), evaluate(*n.children[1], point, steps_), steps_);
        };
        const Value x = difference(a), y = difference(b);
        if (is_zero(x) && is_zero(y)) continue;
        if (is_zero(x) || is_zero(y)) return false;
        ratios.push_back(divide(x, y, steps_));
        if (signed_ratio && (ratios.back().exact ? sgn(ratios.back().re) : sgn(ratios.back().x)) <= 0) return false;
      } catch (const Undefined&) {
      }
    }
    return ratios.size() == kGoodPoints && std::all_of(ratios.begin(), ratios.end(), [&](const Value& r) { return equal(r, ratios[0]); });
  }

  bool same_ratio(const Node& a, const Node& b) {
    const auto quotient = [this](const Node& n) { return n.kind == Kind::ratio && n.children.size() == 2 ? make(Kind::divide, "", n.children) : &n; };
    const Node* x = quotient(a);
    const Node* y = quotient(b);
    if (is_expression(*x) && is_expression(*y)) return same_value(*x, *y);
    if (a.kind != b.kind || a.children.size() != b.children.size()) return false;
    for (size_t i = 1; i < a.children.size(); ++i)
      if (!same(*make(Kind::multiply, "", {a.children[i], b.children[0]}), *make(Kind::multiply, "", {b.children[i], a.children[0]}))) return false;
    return true;
  }

  static std::multiset<std::string> bases(const Node& node) {
    std::multiset<std::string> found;
    if (node.kind == Kind::based) found.insert(node.children[0]->number.get_str());
    for (const Node* child : node.children) found.merge(bases(*child));
    return found;
  }

  bool same_value(const Node& a, const Node& b) {
    Point how;
    const bool based_a = contains(a, Kind::based), based_b = contains(b, Kind::based);
    if (based_a && based_b && bases(a) != bases(b)) return false;
    how.digits_only = based_a != based_b;
    if (same_at(a, b, how)) return true;
    if (contains(a, Kind::percent) != contains(b, Kind::percent)) {
      how.percent_is_number = true;
      if (same_at(a, b, how)) return true;
    }
    const Node* bare_a = without_unit_letter(a);
    const Node* bare_b = without_unit_letter(b);
    if (bare_a && !contains(b, Kind::symbol)) return same_at(*bare_a, b, how);
    return bare_b && !contains(a, Kind::symbol) && same_at(a, *bare_b, how);
  }

  // 12 m, 5 g: a number and one letter that may be a unit.
  const Node* without_unit_letter(const Node& node) {
    if (node.kind == Kind::negate) {
      const Node* inner = without_unit_letter(*node.children[0]);
      return inner ? make(Kind::negate, "", {inner}) : nullptr;
    }
    if (node.kind != Kind::multiply) return nullptr;
    const Node* last = node.children.back();
    if (last->kind == Kind::power) last = last->children[0];
    static const std::set<std::string> units{"m", "g", "s", "h", "l", "L", "N", "J", "W", "V"};
    if (last->kind != Kind::symbol || !units.count(last->name)) return nullptr;
    const std::vector<const Node*> rest(node.children.begin(), node.children.end() - 1);
    const Node* number = rest.size() == 1 ? rest[0] : make(Kind::multiply, "", rest);
    return contains(*number, Kind::symbol) ? nullptr : number;
  }

  bool same_at(const Node& a, const Node& b, Point point) {
    const bool has_variables = contains(a, Kind::symbol) || contains(b, Kind::symbol);
    int good = 0;
    for (int i = 0; i < (has_variables ? kTries : 1) && good < kGoodPoints; ++i) {
      point.index = i;
      const std::optional<Value> x = value_at(a, point), y = value_at(b, point);
      if (x.has_value() != y.has_value()) return false;
      if (!x) continue;
      if (!equal(*x, *y)) return false;
      ++good;
    }
    return good >= (has_variables ? 2 : 1);
  }

  std::optional<Value> value_at(const Node& node, const Point& point) {
    try {
      return evaluate(node, point, steps_);
    } catch (const Undefined&) {
      return std::nullopt;
    }
  }

  Steps& steps_;
  std::deque<Node> nodes_;
};

// Units that two answers may not differ in; all others are words that are ignored.
std::string known_unit(const std::string& name) {
  static const std::map<std::string, std::vector<std::string>> units{{"mm", {"millimeter", "millimetre"}},
                                                                     {"cm", {"centimeter", "centimetre"}},
                                                                     {"m", {"meter", "metre"}},
                                                                     {"km", {"kilometer", "kilometre"}},
                                                                     {"in", {"inch", "inches"}},
                                                                     {"ft", {"foot", "feet"}},
                                                                     {"yd", {"yard"}},
                                                                     {"mi", {"mile"}},
                                                                     {"mg", {"milligram"}},
                                                                     {"g", {"gram", "gm"}},
                                                                     {"kg", {"kilogram"}},
                                                                     {"lb", {"pound", "lbs"}},
                                                                     {"oz", {"ounce"}},
                                                                     {"s", {"second", "sec"}},
                                                                     {"min", {"minute"}},
                                                                     {"h", {"hour", "hr"}},
                                                                     {"day", {}},
                                                                     {"week", {}},
                                                                     {"month", {}},
                                                                     {"year", {"yr"}},
                                                                     {"ml", {"milliliter", "millilitre"}},
                                                                     {"l", {"liter", "litre"}},
                                                                     {"gal", {"gallon"}},
                                                                     {"cent", {}},
                                                                     {"dollar", {"usd"}},
                                                                     {"mph", {}},
                                                                     {"kph", {}},
                                                                     {"am", {}},
                                                                     {"pm", {}},
                                                                     {"degree", {"deg"}},
                                                                     {"radian", {"rad"}}};
  std::string word;
  for (const char c : name.substr(0, name.find_first_of(" ^"))) word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const auto& [unit, others] : units) {
    const auto is = [&](const std::string& other) { return word == other || word == other + "s"; };
    if (is(unit) || std::any_of(others.begin(), others.end(), is)) return unit;
  }
  return {};
}

}  // namespace

bool equal_answers(const ParsedAnswer& given, const ParsedAnswer& gold, Steps& steps) {
  if (given.is_words != gold.is_words) return false;
  const std::string a = known_unit(given.unit.name), b = known_unit(gold.unit.name);
  if (!a.empty() && !b.empty() && a != b) return false;
  return Comparer(steps).same(*given.tree.root, *gold.tree.root);
}

}  // namespace hone::rewards::math
