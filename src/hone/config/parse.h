#pragma once
// From a command line and a YAML file to a checked RunConfig, and back to YAML.
#include <filesystem>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hone/config/fields.h"
#include "hone/config/run_config.h"

namespace hone::config {

enum class Help { none, common, all };

/// What the results of hone rlhf's stages must reach before the next stage starts; an empty one lets everything pass.
struct Gates {
  std::optional<double> max_eval_loss;        // sft: nats a token, on its eval_file
  std::optional<double> min_reward_accuracy;  // reward: share of its eval_file's pairs; the lower end of the 95 % interval
  std::optional<double> max_kl;               // ppo: nats a token between the result and its start
};

/// A command with everything it was told.
struct Arguments {
  Command command = sft;
  RunConfig config;
  std::set<std::string> given;  // names of the fields that a flag or the YAML file set
  std::filesystem::path config_file;
  Help help = Help::none;
  // Of rlhf:
  std::vector<Arguments> stages;  // what the sections of kStages give
  Gates gates;
  std::set<std::string> by_flag;  // of `given`, what a flag set: it wins over the sections, too
};

/// A stage of hone rlhf, ready to run.
struct Stage {
  Arguments arguments;
  std::set<std::string> connected;  // fields that take another stage's result
};

/// Parses the words after `hone COMMAND`. Flags win over the file of --config. The result is validated unless help was asked for.
Arguments parse_arguments(Command command, std::span<const std::string> words);
/// Sets what the YAML text gives (file: its name in messages) except fields already in arguments.given.
void apply_yaml(Arguments& arguments, const std::string& text, const std::string& file);
/// The same for hone rlhf: sections sft, reward, ppo and gate beside the keys of the whole run.
void apply_sections(Arguments& arguments, const std::string& text, const std::string& file);
/// The stages of hone rlhf in `folder`/NAME: each has what its section gives, else what the whole run gives, else the stages before it: the
/// reward model starts from SFT's result (with an adapter: from the same base), PPO from SFT's result (its adapter), judged by the reward model.
/// Every stage is validated; a UserError names the file and the section.
std::vector<Stage> connect_stages(const Arguments& run, const std::filesystem::path& folder);
/// Where a stage's result stands.
std::filesystem::path stage_model(const std::filesystem::path& folder, Command stage);

/// The learning rate of a training command where none is given.
double default_learning_rate(Command command, bool adapter);
/// Fills in what follows from other fields: use_peft from load_in_4bit and adapter, learning rates, losses from rpo_alpha.
void resolve_defaults(Arguments& arguments);
/// Throws UserError at the first contradiction (a missing model, warm-up longer than the run, ...).
void validate(const Arguments& arguments);

/// Every field of the command, one line a key, in the table's order; apply_yaml reads it back to the same RunConfig.
std::string to_yaml(const RunConfig& config, Command command);
/// The same for hone rlhf: every stage with what it resolved to, but for what it takes from another stage; apply_sections reads it back.
std::string to_yaml(const Arguments& run, const std::vector<Stage>& stages);

/// What `hone --help`, `hone COMMAND --help` and `hone COMMAND --help_all` print, and docs/options.md.
std::string program_help();
std::string command_help(Command command, Help help);
std::string options_page();

}  // namespace hone::config
