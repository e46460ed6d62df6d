#include "hone/config/yaml_map.h"

#include <map>

#include "hone/base/error.h"
#include "hone/config/text_values.h"

namespace hone::config {
namespace {

constexpr size_t kListLimit = 10000;  // values of one key

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

}  // namespace

std::string yaml_place(const std::string& file, const YAML::Mark& mark) { return mark.is_null() ? file : fmt::format("{}:{}", file, mark.line + 1); }

YAML::Node load_yaml(const std::string& text, const std::string& file) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) fail("{}: holds {} YAML documents; one is wanted", file, documents.size());
    return documents.empty() ? YAML::Node(YAML::NodeType::Null) : documents.front();
  } catch (const YAML::Exception& error) {
    fail("{}: not YAML: {}", yaml_place(file, error.mark), printable(error.msg));
  }
}

const std::string& yaml_key(const YAML::Node& key, const std::string& file) {
  if (!key.IsScalar()) fail("{}: a key is not plain text", yaml_place(file, key.Mark()));
  return key.Scalar();
}

void apply_map(Arguments& arguments, const YAML::Node& map, const std::string& file, const std::set<std::string>& by_flag) {
  if (!map.IsMap()) fail("{}: not a list of `key: value` lines", yaml_place(file, map.Mark()));
  std::map<std::string, int> seen;  // field -> line
  for (const auto& entry : map) {
    const std::string& key = yaml_key(entry.first, file);
    const std::string at = yaml_place(file, entry.first.Mark());
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

}  // namespace hone::config
