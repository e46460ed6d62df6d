#include <nlohmann/json.hpp>

#include "hone/base/error.h"
#include "hone/config/yaml_map.h"

namespace hone::config {
namespace {

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

// "NAME: VALUE"; empty for a field that says nothing.
std::string line_of(const RunConfig& config, const Field& field) {
  if (field.shorthand || !applies(config, field)) return {};
  if (const auto* list = std::get_if<std::vector<std::string> RunConfig::*>(&field.member)) {
    std::vector<std::string> items;
    for (const std::string& item : config.**list) items.push_back(quoted(item));
    return items.empty() ? "" : fmt::format("{}: [{}]", field.name, fmt::join(items, ", "));
  }
  if (const auto* numbers = std::get_if<std::vector<double> RunConfig::*>(&field.member))
    return (config.**numbers).empty() ? "" : fmt::format("{}: [{}]", field.name, fmt::join(config.**numbers, ", "));
  if (const auto* string = std::get_if<std::string RunConfig::*>(&field.member))
    return (config.**string).empty() ? "" : fmt::format("{}: {}", field.name, quoted(config.**string));
  return fmt::format("{}: {}", field.name, field_text(config, field));
}

}  // namespace

void apply_yaml(Arguments& arguments, const std::string& text, const std::string& file) {
  const YAML::Node root = load_yaml(text, file);
  if (root.IsNull()) return;
  if (!root.IsMap()) fail("{}: not a list of `key: value` lines", file);
  apply_map(arguments, root, file, std::set<std::string>(arguments.given));
}

std::string to_yaml(const RunConfig& config, Command command) {
  std::string out;
  for (const Field& field : fields()) {
    if (!(field.commands & command)) continue;
    if (const std::string line = line_of(config, field); !line.empty()) out += line + "\n";
  }
  return out;
}

std::string to_yaml(const Arguments& run, const std::vector<Stage>& stages) {
  std::string out = fmt::format("output_dir: {}\n", quoted(run.config.output_dir));
  for (const Stage& stage : stages) {
    const Arguments& a = stage.arguments;
    out += command_name(a.command) + ":\n";
    for (const Field& field : fields()) {
      if (!(field.commands & a.command) || stage.connected.count(field.name) || is_of_whole_run(field.name)) continue;
      if (const std::string line = line_of(a.config, field); !line.empty()) out += "  " + line + "\n";
    }
  }
  std::string gates;
  for (const GateField& gate : kGateFields)
    if (const auto& value = run.gates.*gate.member) gates += fmt::format("  {}: {}\n", gate.name, *value);
  return gates.empty() ? out : out + "gate:\n" + gates;
}

}  // namespace hone::config
