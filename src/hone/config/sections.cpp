// hone rlhf: a file with a section for each stage, and what the stages take from the run and from each other.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "hone/base/error.h"
#include "hone/config/text_values.h"
#include "hone/config/yaml_map.h"

namespace hone::config {
namespace {

namespace fs = std::filesystem;

double gate_value(const GateField& gate, const YAML::Node& value, const std::string& where) {
  if (!value.IsScalar()) fail("{}: wanted: a number", where);
  const std::string& text = value.Scalar();
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = error == std::errc() && end == text.data() + text.size() && std::isfinite(number);
  if (!whole) fail("{}: {} is not a number", where, shown(text));
  if (number < 0 || number > gate.maximum) fail("{}: {} is out of range; allowed: at least 0, at most {}", where, shown(text), gate.maximum);
  return number;
}

// `section`: the stage in whose section the map stands, which has that stage's gates alone; empty: outside of the sections.
void apply_gates(Gates& gates, const YAML::Node& map, const std::string& file, std::optional<Command> section) {
  if (!map.IsMap()) fail("{}: gate: not a list of `key: value` lines", yaml_place(file, map.Mark()));
  for (const auto& entry : map) {
    const std::string key = normal_name(yaml_key(entry.first, file));
    const std::string where = fmt::format("{}: gate: {}", yaml_place(file, entry.first.Mark()), printable(key));
    const auto* found = std::find_if(std::begin(kGateFields), std::end(kGateFields), [&](const GateField& g) { return key == g.name; });
    if (found == std::end(kGateFields)) {
      std::vector<std::string> names;
      for (const GateField& g : kGateFields) names.emplace_back(g.name);
      const std::string near = nearest_name(key, names.data(), names.data() + names.size());
      fail("{}: unknown key{}; there are {}", where, near.empty() ? "" : fmt::format(": did you mean {}?", near), fmt::join(names, ", "));
    }
    if (section && found->stage != *section)
      fail("{}: is a gate of the stage {}; write it in that section, or outside of the sections", where, command_name(found->stage));
    if (gates.*(found->member)) fail("{}: is given twice", where);
    gates.*(found->member) = gate_value(*found, entry.second, where);
  }
}

void apply_section(Arguments& stage, Gates& gates, const YAML::Node& map, const std::string& file, const std::string& at) {
  const std::string& name = command_name(stage.command);
  if (!map.IsMap()) fail("{}: {}: is a section: the keys of hone {} stand below it, indented", at, name, name);
  YAML::Node keys(YAML::NodeType::Map);
  for (const auto& entry : map) {
    const std::string key = normal_name(yaml_key(entry.first, file));
    if (key == "gate") {
      apply_gates(gates, entry.second, file, stage.command);
      continue;
    }
    keys.force_insert(entry.first, entry.second);
    const Field* field = find_field(stage.command, key);
    if (field && is_of_whole_run(field->name))
      fail("{}: '{}' belongs to the whole run: write it outside of the sections", yaml_place(file, entry.first.Mark()), key);
  }
  apply_map(stage, keys, file, {});
}

// A field of the whole run, as the stage's own row has it.
void take_over(RunConfig& to, const Field& field, const RunConfig& from, const Field& from_field) {
  start_list(to, field);
  const std::string where = fmt::format("--{}", field.name);
  if (const auto* list = std::get_if<std::vector<std::string> RunConfig::*>(&from_field.member)) {
    for (const std::string& item : from.**list) set_field(to, field, item, where);
  } else {
    set_field(to, field, field_text(from, from_field), where);
  }
}

// What the whole run gives and the section does not; a flag wins over the section. What means nothing to this stage does not count as given.
void inherit(Arguments& stage, const Arguments& run) {
  std::set<std::string> taken;
  for (const Field& from : fields()) {
    if (!(from.commands & rlhf) || !run.given.count(from.name) || is_of_whole_run(from.name)) continue;
    if (from.name == "model_name_or_path" && stage.command != sft) continue;  // connect_model
    const Field* field = find_field(stage.command, from.name);
    if (!field || (stage.given.count(field->name) && !run.by_flag.count(from.name))) continue;
    take_over(stage.config, *field, run.config, from);
    if (stage.given.insert(field->name).second) taken.insert(field->name);
  }
  resolve_defaults(stage);
  for (const std::string& name : taken)
    if (!applies(stage.config, *find_field(stage.command, name))) stage.given.erase(name);
}

// Sets a field to another stage's result.
void connect(Stage& stage, const char* field, std::string RunConfig::*member, const std::string& value) {
  stage.arguments.config.*member = value;
  stage.connected.insert(field);
}

// Where the model of a stage after SFT comes from, unless its section says so.
void connect_model(Stage& stage, const std::set<std::string>& own, const Arguments& sft_stage, const fs::path& folder) {
  Arguments& a = stage.arguments;
  if (own.count("model_name_or_path")) return;
  const bool adapter = sft_stage.config.use_peft;
  connect(stage, "model_name_or_path", &RunConfig::model_name_or_path,
          adapter ? sft_stage.config.model_name_or_path : stage_model(folder, sft).string());
  if (adapter && a.command == ppo && !own.count("adapter")) connect(stage, "adapter", &RunConfig::adapter, stage_model(folder, sft).string());
  if (!a.given.count("chat_template_path")) a.config.chat_template_path = sft_stage.config.chat_template_path;
}

Stage connected_stage(const Arguments& run, size_t number, const std::vector<Stage>& before, const fs::path& folder) {
  Stage stage{run.stages.at(number), {}};
  Arguments& a = stage.arguments;
  const std::set<std::string> own = a.given;  // what the section says
  if (a.command != sft) {
    connect_model(stage, own, before.front().arguments, folder);
    a.given.insert("model_name_or_path");
  }
  if (a.command == ppo && !own.count("reward")) {
    a.config.reward = {"model:" + stage_model(folder, reward).string()};
    stage.connected.insert("reward");
  }
  a.config.output_dir = (folder / command_name(a.command)).string();
  a.config.resume = run.config.resume;
  inherit(a, run);
  return stage;
}

}  // namespace

bool is_of_whole_run(const std::string& name) { return name == "output_dir" || name == "resume" || name == "format"; }

fs::path stage_model(const fs::path& folder, Command stage) { return folder / command_name(stage) / "model"; }

void apply_sections(Arguments& arguments, const std::string& text, const std::string& file) {
  const YAML::Node root = load_yaml(text, file);
  if (!root.IsNull() && !root.IsMap()) fail("{}: not a list of `key: value` lines", file);
  arguments.by_flag = arguments.given;
  for (const Command stage : kStages) {
    Arguments& section = arguments.stages.emplace_back();
    section.command = stage;
    section.config = defaults(stage);
  }
  YAML::Node whole(YAML::NodeType::Map);
  std::map<std::string, int> seen;
  for (const auto& entry : root) {
    const std::string key = normal_name(yaml_key(entry.first, file));
    const std::string at = yaml_place(file, entry.first.Mark());
    const auto* stage = std::find_if(std::begin(kStages), std::end(kStages), [&](Command c) { return command_name(c) == key; });
    const bool is_section = stage != std::end(kStages) || key == "gate";
    if (!is_section) {
      whole.force_insert(entry.first, entry.second);
      continue;
    }
    const auto [first, fresh] = seen.emplace(key, entry.first.Mark().line + 1);
    if (!fresh) fail("{}: {}: is given twice (first on line {})", at, key, first->second);
    if (key == "gate")
      apply_gates(arguments.gates, entry.second, file, {});
    else
      apply_section(arguments.stages[static_cast<size_t>(stage - kStages)], arguments.gates, entry.second, file, at);
  }
  apply_map(arguments, whole, file, std::set<std::string>(arguments.by_flag));
  for (const Command stage : kStages)
    if (!seen.count(command_name(stage)))
      fail("{}: the section {} is missing; hone rlhf needs sft, reward and ppo, each with at least its data", file, command_name(stage));
}

std::vector<Stage> connect_stages(const Arguments& run, const fs::path& folder) {
  std::vector<Stage> stages;
  for (size_t i = 0; i < run.stages.size(); ++i) {
    const std::string& name = command_name(run.stages[i].command);
    try {
      stages.push_back(connected_stage(run, i, stages, folder));
      validate(stages.back().arguments);
    } catch (const UserError& error) {
      throw UserError(error.code(), fmt::format("{}: {}: {}", run.config_file.string(), name, error.what()));
    }
  }
  for (const GateField& gate : kGateFields) {
    if (gate.stage == ppo || !(run.gates.*gate.member)) continue;
    const auto& judged = *std::find_if(stages.begin(), stages.end(), [&](const Stage& s) { return s.arguments.command == gate.stage; });
    if (judged.arguments.config.eval_file.empty())
      fail("{}: gate: {} is judged on held-out rows: add eval_file to the section {}", run.config_file.string(), gate.name, command_name(gate.stage));
  }
  return stages;
}

}  // namespace hone::config
