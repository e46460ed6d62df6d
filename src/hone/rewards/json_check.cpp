// Values against a schema, and json:SCHEMA_FILE.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>

#include "hone/base/error.h"
#include "hone/rewards/json_schema.h"
#include "hone/rewards/makers.h"
#include "hone/text/utf8.h"

namespace hone::rewards {

using Json = nlohmann::json;

namespace {

constexpr int kMaxDepth = 400;            // of a value
constexpr int64_t kMaxSteps = 2'000'000;  // of one check

bool has_type(const Json& value, const std::string& type) {
  if (type == "integer") return value.is_number_integer() || (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
  if (type == "number") return value.is_number();
  return type == (value.is_number() ? "number" : value.type_name());
}

// Less than, exactly for integers of one sign.
bool less(const Json& a, const Json& b) { return a < b; }

bool is_multiple(const Json& value, const Json& of) {
  if (value.is_number_integer() && of.is_number_unsigned())
    return value.is_number_unsigned() ? value.get<uint64_t>() % of.get<uint64_t>() == 0 : (0 - value.get<uint64_t>()) % of.get<uint64_t>() == 0;
  const double quotient = value.get<double>() / of.get<double>();
  return std::abs(quotient - std::round(quotient)) <=
         1e-9 * std::max(1.0, std::abs(quotient));  // 0.3 is a multiple of 0.1, which neither double says exactly
}

int64_t code_points(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](unsigned char c) { return (c & 0xC0) != 0x80; });
}

// What stands in the last fenced block (``` to ```), else the whole text.
std::string_view json_text(std::string_view completion) {
  std::string_view last = completion;
  size_t at = completion.find("```");
  while (at != completion.npos) {
    const size_t line = completion.find('\n', at);
    const size_t close = completion.find("```", at + 3);
    if (close == completion.npos) break;
    last = line != completion.npos && line < close ? completion.substr(line + 1, close - line - 1) : completion.substr(at + 3, close - at - 3);
    at = completion.find("```", close + 3);
  }
  return last;
}

// Brackets open at once, outside of strings.
int nesting(std::string_view text) {
  int depth = 0, most = 0;
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted && c == '\\')
      ++at;
    else if (c == '"')
      quoted = !quoted;
    else if (!quoted && (c == '[' || c == '{'))
      most = std::max(most, ++depth);
    else if (!quoted && (c == ']' || c == '}'))
      --depth;
  }
  return most;
}

}  // namespace

// One check of one value; keywords in groups by what they look at. Each returns what is wrong, empty where nothing is.
struct JsonSchema::Check {
  const JsonSchema& schema;
  int64_t steps = 0;
  int depth = 0;

  std::string run(const Json& s, const Json& value, const std::string& at) {
    if (++steps > kMaxSteps || ++depth > 4 * kMaxDepth) throw TooMuch{};
    std::string fault;
    if (s.is_boolean())
      fault = s.get<bool>() ? "" : place(at) + "nothing is allowed here";
    else if ((fault = general(s, value, at)).empty() && (fault = combined(s, value, at)).empty()) {
      if (value.is_number()) fault = number(s, value, at);
      if (value.is_string()) fault = text(s, value, at);
      if (value.is_array()) fault = array(s, value, at);
      if (value.is_object()) fault = object(s, value, at);
    }
    --depth;
    return fault;
  }

 private:
  static std::string place(const std::string& at) { return (at.empty() ? "the value" : at) + ": "; }
  static const Json* find(const Json& s, const char* key) {
    const auto it = s.find(key);
    return it == s.end() ? nullptr : &*it;
  }
  void pay(size_t count) {
    steps += static_cast<int64_t>(count);
    if (steps > kMaxSteps) throw TooMuch{};
  }

  std::string general(const Json& s, const Json& value, const std::string& at) {
    if (const Json* type = find(s, "type")) {
      const bool fits =
          type->is_array() ? std::any_of(type->begin(), type->end(), [&](const Json& t) { return has_type(value, t); }) : has_type(value, *type);
      if (!fits) return place(at) + "is " + value.type_name() + ", wanted " + type->dump();
    }
    if (const Json* wanted = find(s, "const"); wanted && value != *wanted) return place(at) + "is not what const says";
    if (const Json* wanted = find(s, "enum"); wanted && std::find(wanted->begin(), wanted->end(), value) == wanted->end())
      return place(at) + "is none of enum";
    if (const Json* reference = find(s, "$ref")) return run(schema.target(*reference), value, at);
    return {};
  }

  std::string combined(const Json& s, const Json& value, const std::string& at) {
    if (const Json* all = find(s, "allOf"))
      for (const Json& part : *all)
        if (std::string fault = run(part, value, at); !fault.empty()) return fault;
    const auto count = [&](const Json& parts) {
      return std::count_if(parts.begin(), parts.end(), [&](const Json& part) { return run(part, value, at).empty(); });
    };
    if (const Json* any = find(s, "anyOf"); any && count(*any) == 0) return place(at) + "fits none of anyOf";
    if (const Json* one = find(s, "oneOf")) {
      const auto fitting = count(*one);
      if (fitting != 1) return place(at) + "fits " + std::to_string(fitting) + " of oneOf";
    }
    if (const Json* no = find(s, "not"); no && run(*no, value, at).empty()) return place(at) + "fits what not forbids";
    if (const Json* condition = find(s, "if")) {
      const Json* branch = find(s, run(*condition, value, at).empty() ? "then" : "else");
      if (branch) return run(*branch, value, at);
    }
    return {};
  }

  std::string number(const Json& s, const Json& value, const std::string& at) {
    if (const Json* bound = find(s, "minimum"); bound && less(value, *bound)) return place(at) + "is below " + bound->dump();
    if (const Json* bound = find(s, "maximum"); bound && less(*bound, value)) return place(at) + "is above " + bound->dump();
    if (const Json* bound = find(s, "exclusiveMinimum"); bound && !less(*bound, value)) return place(at) + "is not above " + bound->dump();
    if (const Json* bound = find(s, "exclusiveMaximum"); bound && !less(value, *bound)) return place(at) + "is not below " + bound->dump();
    if (const Json* of = find(s, "multipleOf"); of && !is_multiple(value, *of)) return place(at) + "is no multiple of " + of->dump();
    return {};
  }

  static std::string counted(const Json& s, int64_t count, const char* least, const char* most, const std::string& at, const char* what) {
    if (const Json* bound = find(s, least); bound && static_cast<double>(count) < bound->get<double>())
      return place(at) + "has " + std::to_string(count) + what + ", wanted at least " + bound->dump();
    if (const Json* bound = find(s, most); bound && static_cast<double>(count) > bound->get<double>())
      return place(at) + "has " + std::to_string(count) + what + ", wanted at most " + bound->dump();
    return {};
  }

  std::string text(const Json& s, const Json& value, const std::string& at) {
    const std::string& content = value.get_ref<const std::string&>();
    if (std::string fault = counted(s, code_points(content), "minLength", "maxLength", at, " characters"); !fault.empty()) return fault;
    if (const Json* pattern = find(s, "pattern"); pattern && !re2::RE2::PartialMatch(content, *schema.patterns_.at(*pattern)))
      return place(at) + "does not match " + pattern->dump();
    return {};
  }

  std::string array(const Json& s, const Json& value, const std::string& at) {
    if (std::string fault = counted(s, static_cast<int64_t>(value.size()), "minItems", "maxItems", at, " items"); !fault.empty()) return fault;
    const Json* prefix = find(s, "prefixItems");
    const Json* items = find(s, "items");
    for (size_t i = 0; i < value.size(); ++i) {
      const bool in_prefix = prefix && i < prefix->size();
      if (!in_prefix && !items) break;
      if (std::string fault = run(in_prefix ? (*prefix)[i] : *items, value[i], at + "/" + std::to_string(i)); !fault.empty()) return fault;
    }
    if (const Json* unique = find(s, "uniqueItems"); unique && unique->get<bool>())
      for (size_t i = 0; i < value.size(); ++i)
        for (size_t j = 0; j < i; ++j) {
          pay(1 + std::min(value[i].size(), value[j].size()));
          if (value[i] == value[j]) return place(at) + "items " + std::to_string(j) + " and " + std::to_string(i) + " are equal";
        }
    if (const Json* contains = find(s, "contains")) {
      const auto count = std::count_if(value.begin(), value.end(), [&](const Json& item) { return run(*contains, item, at).empty(); });
      if (count == 0 && !s.contains("minContains")) return place(at) + "holds nothing that contains asks for";
      return counted(s, count, "minContains", "maxContains", at, " such items");
    }
    return {};
  }

  std::string object(const Json& s, const Json& value, const std::string& at) {
    if (std::string fault = counted(s, static_cast<int64_t>(value.size()), "minProperties", "maxProperties", at, " properties"); !fault.empty())
      return fault;
    if (const Json* required = find(s, "required"))
      for (const Json& name : *required)
        if (!value.contains(name.get_ref<const std::string&>())) return place(at) + "lacks " + name.dump();
    if (const Json* dependent = find(s, "dependentRequired"))
      for (const auto& [name, others] : dependent->items())
        if (value.contains(name))
          for (const Json& other : others)
            if (!value.contains(other.get_ref<const std::string&>())) return place(at) + "lacks " + other.dump();
    for (const auto& [name, member] : value.items())
      if (std::string fault = property(s, name, member, at); !fault.empty()) return fault;
    return {};
  }

  std::string property(const Json& s, const std::string& name, const Json& member, const std::string& at) {
    const std::string inner = at + "/" + name.substr(0, 40);
    if (const Json* names = find(s, "propertyNames"))
      if (!run(*names, Json(name), inner).empty()) return place(inner) + "has a name that propertyNames does not allow";
    bool known = false;
    if (const Json* properties = find(s, "properties"))
      if (const auto it = properties->find(name); it != properties->end()) {
        known = true;
        if (std::string fault = run(*it, member, inner); !fault.empty()) return fault;
      }
    if (const Json* patterns = find(s, "patternProperties"))
      for (const auto& [pattern, part] : patterns->items()) {
        if (!re2::RE2::PartialMatch(name, *schema.patterns_.at(pattern))) continue;
        known = true;
        if (std::string fault = run(part, member, inner); !fault.empty()) return fault;
      }
    const Json* rest = find(s, "additionalProperties");
    if (known || !rest) return {};
    if (rest->is_boolean() && !rest->get<bool>()) return place(inner) + "is a property that the schema does not name";
    return run(*rest, member, inner);
  }
};

std::string JsonSchema::mismatch(const Json& value) const { return Check{*this}.run(root_, value, ""); }

namespace {

class JsonReward : public Reward {
 public:
  explicit JsonReward(JsonSchema schema) : schema_(std::move(schema)) {}
  std::vector<Judgement> judge(std::span<const Sample> samples) override {
    return judge_each(samples, [this](const Sample& sample) -> Judgement {
      const std::string_view text = json_text(sample.completion);
      if (nesting(text) > kMaxDepth) return {Verdict::timed_out, 0.0, "brackets are nested too deeply"};
      const Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
      if (value.is_discarded()) return {Verdict::unparsed, 0.0, "no JSON"};
      try {
        std::string fault = schema_.mismatch(value);
        if (fault.empty()) return {Verdict::right, 1.0, {}};
        return {Verdict::wrong, 0.0, std::move(fault)};
      } catch (const JsonSchema::TooMuch&) {
        return {Verdict::timed_out, 0.0, "the value takes too many steps to check"};
      }
    });
  }

 private:
  JsonSchema schema_;
};

}  // namespace

std::unique_ptr<Reward> make_json(const std::string& argument, const RewardSettings&) {
  std::ifstream file(argument);
  if (!file) fail("--reward json:{}: the schema cannot be read", argument);
  std::ostringstream text;
  text << file.rdbuf();
  const std::string content = text.str();
  Json schema = nesting(content) > kMaxDepth ? Json(Json::value_t::discarded) : Json::parse(content, nullptr, false);
  if (schema.is_discarded()) fail("--reward json:{}: the file holds no JSON", argument);
  return std::make_unique<JsonReward>(JsonSchema(std::move(schema), "--reward json:" + argument));
}

}  // namespace hone::rewards
