// Help and the page of options, from the field table.
#include "hone/base/error.h"
#include "hone/config/parse.h"

namespace hone::config {
namespace {

constexpr size_t kColumn = 40;  // where help lines begin

std::string default_note(const RunConfig& config, const Field& field) {
  std::string text = field.default_text.empty() ? field_text(config, field) : field.default_text;
  return text.empty() ? "" : fmt::format(" [{}]", text);
}

std::string flag_names(const Field& field) {
  std::string names = "--" + field.name;
  for (const std::string& alias : field.aliases) names += ", --" + alias;
  return names;
}

}  // namespace

std::string value_name(const Field& field) {
  if (!field.value.empty()) return field.value;
  std::string names;
  for (const std::string& choice : field.choices) {
    bool later = false;
    for (const std::string& name : field.later_choices) later = later || name == choice;
    if (!later) names += (names.empty() ? "" : "|") + choice;
  }
  return names;
}

std::string program_help() {
  std::string out = "hone post-trains language models.\n\nusage: hone COMMAND [--flag value ...]\n\n";
  for (const CommandInfo& info : commands()) out += fmt::format("  {:<10} {}\n", info.name, info.summary);
  out += "\nhone COMMAND --help shows a command's flags, --help_all all of them. hone --version prints the version.\n";
  return out;
}

std::string command_help(Command command, Help help) {
  const RunConfig config = defaults(command);
  std::string out;
  for (const CommandInfo& info : commands()) {
    if (info.command == command) out = fmt::format("hone {}: {}\n", info.name, info.summary);
  }
  std::string group;
  size_t hidden = 0;
  for (const Field& field : fields()) {
    if (!(field.commands & command)) continue;
    if (!field.common && help != Help::all) {
      ++hidden;
      continue;
    }
    if (field.group != group) out += fmt::format("\n{}\n", field.group);
    group = field.group;
    const std::string left = fmt::format("  {} {}", flag_names(field), value_name(field));
    out += left.size() < kColumn ? fmt::format("{:<{}}", left, kColumn) : fmt::format("{}\n{:<{}}", left, "", kColumn);
    out += field.help + default_note(config, field) + "\n";
  }
  out += fmt::format("\n  {:<{}}{}\n", "--config FILE", kColumn - 2, "these flags as keys of a YAML file; flags win");
  if (command == rlhf)
    out +=
        "\nThe file is needed. Its sections sft, reward and ppo hold the keys of those commands (data first of all) and win over the keys of the "
        "whole\n"
        "run; gate holds max_eval_loss, min_reward_accuracy and max_kl: what a stage must reach before the next one starts (docs/rlhf.md).\n";
  if (hidden > 0) out += fmt::format("  {:<{}}{} more flags\n", "--help_all", kColumn - 2, hidden);
  return out;
}

std::string options_page() {
  std::string out =
      "# Options\n\nMade from the field table in src/hone/config/table.cpp by a test; `tests/config` says how to write it anew.\n"
      "Each flag is also a key of the YAML file given with `--config FILE`; flags win over the file, `-` and `_` are the same.\n";
  for (const CommandInfo& info : commands()) {
    const RunConfig config = defaults(info.command);
    out += fmt::format("\n## hone {}\n{}\n\n| flag | value | default | meaning |\n|---|---|---|---|\n", info.name, info.summary);
    for (const Field& field : fields()) {
      if (!(field.commands & info.command)) continue;
      std::string value = value_name(field);
      for (size_t at = 0; (at = value.find('|', at)) != std::string::npos; at += 2) value.insert(at, "\\");
      const std::string text = field.default_text.empty() ? field_text(config, field) : field.default_text;
      out += fmt::format("| `{}` | {} | {} | {} |\n", flag_names(field), value, text, field.help);
    }
  }
  return out;
}

}  // namespace hone::config
