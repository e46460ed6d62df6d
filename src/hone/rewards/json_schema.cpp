// Reading a schema: what it may hold. What a value must be is in json_check.cpp.
#include "hone/rewards/json_schema.h"

#include <algorithm>
#include <set>

#include "hone/base/error.h"

namespace hone::rewards {
namespace {

using Json = nlohmann::json;
using Names = std::set<std::string, std::less<>>;

// Keywords by what stands behind them.
const Names kSchema{"additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else"};
const Names kSchemas{"allOf", "anyOf", "oneOf", "prefixItems"};
const Names kNamedSchemas{"properties", "patternProperties", "$defs", "definitions"};
const Names kCounts{"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains"};
const Names kNumbers{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};
const Names kIgnored{"$schema",  "$id",       "$comment", "title",           "description",      "default",       "examples",   "deprecated",
                     "readOnly", "writeOnly", "format",   "contentEncoding", "contentMediaType", "contentSchema", "$vocabulary"};
const Names kTypes{"null", "boolean", "object", "array", "number", "string", "integer"};
const Names kInPlaceMany{"allOf", "anyOf", "oneOf"};
const Names kInPlace{"not", "if", "then", "else"};

bool is_texts(const Json& value) {
  return value.is_array() && std::all_of(value.begin(), value.end(), [](const Json& v) { return v.is_string(); });
}

}  // namespace

void JsonSchema::refuse(const std::string& at, const std::string& what) const { fail("{}: {}: {}", where_, at.empty() ? "the schema" : at, what); }

JsonSchema::JsonSchema(Json schema, const std::string& where) : root_(std::move(schema)), where_(where) {
  read(root_, "");
  for (const Json* schema : all_) {
    std::vector<const Json*> path;
    int64_t steps = 0;
    find_cycles(*schema, path, steps);
  }
  all_.clear();
}

void JsonSchema::read(const Json& schema, const std::string& at) {
  constexpr size_t longest = 2000;  // of a place in the schema: bounds its nesting
  if (at.size() > longest) refuse(at.substr(0, 60) + "...", "is nested too deeply");
  if (schema.is_boolean()) return;
  if (!schema.is_object()) refuse(at, std::string("is ") + schema.type_name() + ", wanted an object, true or false");
  all_.push_back(&schema);
  for (const auto& [key, value] : schema.items()) read_keyword(key, value, at + "/" + key);
}

void JsonSchema::read_keyword(const std::string& key, const Json& value, const std::string& at) {
  if (kIgnored.count(key)) return;
  if (kSchema.count(key)) {
    if (key == "items" && value.is_array()) refuse(at, "a list is the old form; draft 2020-12 writes prefixItems");
    return read(value, at);
  }
  if (kSchemas.count(key)) {
    if (!value.is_array() || value.empty()) refuse(at, "wanted a list of schemas");
    for (size_t i = 0; i < value.size(); ++i) read(value[i], at + "/" + std::to_string(i));
  } else if (kNamedSchemas.count(key)) {
    if (!value.is_object()) refuse(at, "wanted an object of schemas");
    for (const auto& [name, schema] : value.items()) {
      if (key == "patternProperties") read_pattern(name, at);
      read(schema, at + "/" + name);
    }
  } else if (kCounts.count(key)) {
    if (!value.is_number() || value.get<double>() < 0 || value.get<double>() != static_cast<double>(static_cast<int64_t>(value.get<double>())))
      refuse(at, "wanted a whole number");
  } else if (kNumbers.count(key)) {
    if (!value.is_number() || (key == "multipleOf" && value.get<double>() <= 0)) refuse(at, "wanted a number");
  } else if (key == "type") {
    const Json names = value.is_array() ? value : Json::array({value});
    for (const Json& name : names)
      if (!name.is_string() || !kTypes.count(name.get<std::string>())) refuse(at, "there is no type " + name.dump());
  } else if (key == "enum") {
    if (!value.is_array()) refuse(at, "wanted a list");
  } else if (key == "required") {
    if (!is_texts(value)) refuse(at, "wanted a list of names");
  } else if (key == "dependentRequired") {
    if (!value.is_object() || !std::all_of(value.begin(), value.end(), is_texts)) refuse(at, "wanted lists of names");
  } else if (key == "uniqueItems") {
    if (!value.is_boolean()) refuse(at, "wanted true or false");
  } else if (key == "pattern") {
    read_pattern(value, at);
  } else if (key == "$ref") {
    if (!value.is_string()) refuse(at, "wanted a text");
    try {
      target(value.get<std::string>());
    } catch (const UserError& error) {
      refuse(at, error.what());
    }
  } else if (key != "const") {
    refuse(at, "the keyword " + key + " is not known here: take it out, or say the same with the keywords of docs/rlvr.md");
  }
}

void JsonSchema::read_pattern(const Json& pattern, const std::string& at) {
  if (!pattern.is_string()) refuse(at, "wanted a regular expression");
  const std::string text = pattern;
  auto compiled = std::make_unique<re2::RE2>(text, re2::RE2::Quiet);
  if (!compiled->ok()) refuse(at, "'" + text + "' is no regular expression of RE2: " + compiled->error());
  patterns_[text] = std::move(compiled);
}

const Json& JsonSchema::target(const std::string& reference) const {
  if (!reference.starts_with('#') || (reference.size() > 1 && reference[1] != '/'))
    fail("{} is not in this file; only #/$defs/NAME and the like are followed", reference);
  try {
    return root_.at(Json::json_pointer(reference.substr(1)));
  } catch (const Json::exception&) {
    fail("there is no {}", reference);
  }
}

// A schema that comes back to itself without going into the value would never end.
void JsonSchema::find_cycles(const Json& schema, std::vector<const Json*>& path, int64_t& steps) const {
  if (!schema.is_object()) return;
  if (std::find(path.begin(), path.end(), &schema) != path.end()) refuse("", "a $ref leads back to itself without going into the value");
  constexpr size_t deepest = 200;
  constexpr int64_t most_steps = 100000;
  if (path.size() > deepest || ++steps > most_steps) refuse("", "its $refs are nested too deeply");
  path.push_back(&schema);
  for (const auto& [key, value] : schema.items()) {
    if (key == "$ref")
      find_cycles(target(value), path, steps);
    else if (kInPlace.count(key))
      find_cycles(value, path, steps);
    else if (kInPlaceMany.count(key))
      for (const Json& part : value) find_cycles(part, path, steps);
  }
  path.pop_back();
}

}  // namespace hone::rewards
