#pragma once
// From a command line and a YAML file to a checked RunConfig, and back to YAML.
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "hone/config/fields.h"
#include "hone/config/run_config.h"

namespace hone::config {

enum class Help { none, common, all };

/// A command with everything it was told.
struct Arguments {
  Command command = sft;
  RunConfig config;
  std::set<std::string> given;  // names of the fields that a flag or the YAML file set
  std::filesystem::path config_file;
  Help help = Help::none;
};

/// Parses the words after `hone COMMAND`. Flags win over the file of --config. The result is validated unless help was asked for.
Arguments parse_arguments(Command command, std::span<const std::string> words);
/// Sets what the YAML text gives (file: its name in messages) except fields already in arguments.given.
void apply_yaml(Arguments& arguments, const std::string& text, const std::string& file);
/// The learning rate of a training command where none is given.
double default_learning_rate(Command command, bool adapter);
/// Fills in what follows from other fields: use_peft from load_in_4bit and adapter, learning rates, losses from rpo_alpha.
void resolve_defaults(Arguments& arguments);
/// Throws UserError at the first contradiction (a missing model, warm-up longer than the run, ...).
void validate(const Arguments& arguments);

/// Every field of the command, one line a key, in the table's order; apply_yaml reads it back to the same RunConfig.
std::string to_yaml(const RunConfig& config, Command command);

/// What `hone --help`, `hone COMMAND --help` and `hone COMMAND --help_all` print, and docs/options.md.
std::string program_help();
std::string command_help(Command command, Help help);
std::string options_page();

}  // namespace hone::config
