#pragma once
// The field table: one row declares a flag, its YAML key, its help line, its type and its range. Everything else is derived from it.
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hone/config/run_config.h"

namespace hone::config {

/// The commands of this version, as bits of Field::commands.
enum Command : unsigned {
  sft = 1,
  inspect = 2,
  tokenize = 4,
  score = 8,
  sample = 16,
  eval = 32,
  doctor = 64,
  convert = 128,
  merge = 256,
  dpo = 512,
  reward = 1024,
  kto = 2048,
  orpo = 4096,
  simpo = 8192,
  grade = 16384,
  grpo = 1 << 15,
  rloo = 1 << 16,
  ppo = 1 << 17,
  rlhf = 1 << 18,
  chat = 1 << 19,
};
constexpr unsigned kPairCommands = dpo | reward | orpo | simpo;  // rows are pairs of a better and a worse completion
constexpr unsigned kPreferenceCommands = kPairCommands | kto;
constexpr unsigned kGroupCommands = grpo | rloo;              // learn from groups of completions of a prompt
constexpr unsigned kOnPolicyCommands = kGroupCommands | ppo;  // rows are prompts; the policy samples what it learns from
constexpr unsigned kTrainingCommands = sft | kPreferenceCommands | kOnPolicyCommands;
constexpr unsigned kRunCommands = kTrainingCommands | rlhf;  // rlhf: three of them, one after the other
constexpr Command kStages[] = {sft, reward, ppo};            // of rlhf, in this order; its file has a section for each

struct CommandInfo {
  Command command;
  std::string name;
  std::string summary;
};
/// In the order of `hone --help`.
std::span<const CommandInfo> commands();
const std::string& command_name(Command command);
/// The command of that name. UserError naming the nearest one, or saying that it comes with a later version.
Command find_command(std::string_view name);

/// A choice among names. `get` and `set` go through the index in Field::choices.
struct EnumMember {
  std::function<int(const RunConfig&)> get;
  std::function<void(RunConfig&, int)> set;
};
/// Seconds, written as 90s, 20m, 1h30m.
struct DurationMember {
  std::optional<double> RunConfig::*member;
};
using Member = std::variant<std::string RunConfig::*, int64_t RunConfig::*, double RunConfig::*, bool RunConfig::*,
                            std::vector<std::string> RunConfig::*, std::vector<double> RunConfig::*, std::optional<int64_t> RunConfig::*,
                            std::optional<double> RunConfig::*, std::optional<bool> RunConfig::*, DurationMember, EnumMember>;

/// What a field means something with. A field given without it is an error, and run.yaml leaves such a field out.
enum class Needs {
  nothing,
  new_adapter,       // an adapter that this run makes
  adapter,           // an adapter, new or from --adapter
  four_bit,          // --load_in_4bit
  held_out,          // --eval_file
  synced_reference,  // --sync_ref_model
  alpha_divergence,  // --f_divergence_type alpha_divergence
  dynamic_sampling,  // --dynamic_sampling
  kl_target,         // --kl_target
};

struct Field {
  std::string name;
  std::vector<std::string> aliases;
  Member member;
  std::string value;  // how --help names the value: "PATH", "N", "auto|N"
  std::string help;
  std::string group;
  unsigned commands = 0;      // bits of Command
  bool common = false;        // shown by --help; the rest by --help_all
  std::string default_value;  // overrides the default in RunConfig for this row's commands (empty: RunConfig's)
  std::string default_text;   // what help says instead of the default value
  double minimum = 0;         // numbers: allowed range, both ends included
  double maximum = 9e15;
  bool minimum_open = false;  // the minimum itself is not allowed
  bool maximum_open = false;
  Needs needs = Needs::nothing;
  std::vector<std::string> losses;  // the only values of loss_type that it means something with; empty: all
  bool shorthand = false;           // stands for other fields, which run.yaml has in its place
  bool splits_at_commas = false;    // lists: an item is split at commas unless it is a regular expression
  std::string unset;                // optional members: the word that leaves it empty ("auto", "none")
  std::vector<std::string> choices;
  std::vector<std::pair<std::string, std::string>> choice_aliases;  // other names of choices; one that ends with * is a beginning
  std::vector<std::pair<std::string, std::string>> choice_advice;   // names that are refused, with what to do
  std::vector<std::string> later_choices;                           // known, refused as coming with a later version
};

std::span<const Field> fields();
/// The row of that name or alias for the command (`-` and `_` are the same); nullptr where there is none.
const Field* find_field(Command command, std::string_view name);
/// Explains why `name` is no field of the command, naming the nearest one, or what to use instead. `what` is "flag" or "key".
std::string explain_unknown(Command command, std::string_view name, std::string_view what);

/// Sets one field from text. UserError naming `where` (such as "--max_length" or "run.yaml:3: max_length"), the value and what is allowed.
void set_field(RunConfig& config, const Field& field, std::string_view text, const std::string& where);
/// Empties a list before its first value is set; any other field is left as it is.
void start_list(RunConfig& config, const Field& field);
/// Whether it takes several values, or is repeated.
bool is_list(const Field& field);
/// Whether the field means anything with the rest of the configuration (Field::needs, Field::losses).
bool applies(const RunConfig& config, const Field& field);
/// How help and messages name the value: "PATH", "auto|N", "drop|cut|error".
std::string value_name(const Field& field);
/// The value as set_field reads it; lists are joined by spaces (for help and messages).
std::string field_text(const RunConfig& config, const Field& field);
/// A configuration with the command's defaults.
RunConfig defaults(Command command);

}  // namespace hone::config
