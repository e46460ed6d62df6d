#include <yaml-cpp/yaml.h>

#include <map>
#include <nlohmann/json.hpp>

#include "hone/base/error.h"
#include "hone/config/parse.h"
#include "hone/config/text_values.h"

namespace hone::config {
namespace {

constexpr size_t kListLimit = 10000;  // values of one key

std::string place(const std::string& file, const YAML::Mark& mark) { return mark.is_null() ? file : fmt::format("{}:{}", file, mark.line + 1); }

/// The document of the text; an empty one is an undefined node. yaml-cpp bounds the nesting; an alias is a second name of one node, so a
/// file cannot grow in memory, and only scalars and flat lists of scalars are ever walked.
YAML::Node load(const std::string& text, const std::string& file) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) fail("{}: holds {} YAML documents; one is wanted", file, documents.size());
    return documents.empty() ? YAML::Node(YAML::NodeType::Null) : documents.front();
  } catch (const YAML::Exception& error) {
    fail("{}: not YAML: {}", place(file, error.mark), printable(error.msg));
  }
}

/// The scalars of a key's value.
std::vector<std::string> scalars(const Field& field, const YAML::Node& value, const std::string& where) {
  if (value.IsScalar()) return {value.Scalar()};
  if (value.IsNull()) fail("{}: has no value; give {}, or leave the key out", where, value_name(field));
  if (!value.IsSequence() || !is_list(field)) fail("{}: is a {}; wanted: {}", where, value.IsMap() ? "map" : "list", value_name(field));
  if (value.size() > kListLimit) fail("{}: has {} values; at most {} are taken", where, value.size(), kListLimit);
  std::vector<std::string> list;
  for (const YAML::Node& item : value) {
    if (!item.IsScalar()) fail("{}: value {} of the list is not plain text", where, list.size() + 1);
    list.push_back(item.Scalar());
  }
  if (list.empty()) fail("{}: the list is empty; give {}, or leave the key out", where, value_name(field));
  return list;
}

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

}  // namespace

void apply_yaml(Arguments& arguments, const std::string& text, const std::string& file) {
  const YAML::Node root = load(text, file);
  if (root.IsNull()) return;
  if (!root.IsMap()) fail("{}: not a list of `key: value` lines", file);
  std::map<std::string, int> seen;  // field -> line
  const std::set<std::string> by_flag = arguments.given;
  for (const auto& entry : root) {
    const std::string at = place(file, entry.first.Mark());
    if (!entry.first.IsScalar()) fail("{}: a key is not plain text", at);
    const std::string& key = entry.first.Scalar();
    const Field* field = find_field(arguments.command, key);
    if (!field) fail("{}: {}", at, explain_unknown(arguments.command, key, "key"));
    const std::string where = fmt::format("{}: {}", at, printable(key));
    const auto [first, fresh] = seen.emplace(field->name, entry.first.Mark().line + 1);
    if (!fresh) fail("{}: is given twice (first on line {})", where, first->second);
    RunConfig scratch;  // a value that a flag overrides is checked all the same
    RunConfig& target = by_flag.count(field->name) ? scratch : arguments.config;
    start_list(target, *field);
    for (const std::string& value : scalars(*field, entry.second, where)) set_field(target, *field, value, where);
    arguments.given.insert(field->name);
  }
}

std::string to_yaml(const RunConfig& config, Command command) {
  std::string out;
  for (const Field& field : fields()) {
    if (!(field.commands & command) || field.shorthand || !applies(config, field)) continue;
    if (const auto* list = std::get_if<std::vector<std::string> RunConfig::*>(&field.member)) {
      if ((config.**list).empty()) continue;
      std::vector<std::string> items;
      for (const std::string& item : config.**list) items.push_back(quoted(item));
      out += fmt::format("{}: [{}]\n", field.name, fmt::join(items, ", "));
    } else if (const auto* numbers = std::get_if<std::vector<double> RunConfig::*>(&field.member)) {
      if (!(config.**numbers).empty()) out += fmt::format("{}: [{}]\n", field.name, fmt::join(config.**numbers, ", "));
    } else if (const auto* string = std::get_if<std::string RunConfig::*>(&field.member)) {
      if (!(config.**string).empty()) out += fmt::format("{}: {}\n", field.name, quoted(config.**string));
    } else {
      out += fmt::format("{}: {}\n", field.name, field_text(config, field));
    }
  }
  return out;
}

}  // namespace hone::config
