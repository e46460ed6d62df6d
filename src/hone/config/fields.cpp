#include "hone/config/fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "hone/base/error.h"
#include "hone/config/text_values.h"

namespace hone::config {

std::span<const CommandInfo> commands() {
  static const std::vector<CommandInfo> table = {
      {sft, "sft", "fine-tune a model on demonstrations"},
      {dpo, "dpo", "align a model with pairs of a better and a worse completion, against itself at the start (DPO and its family)"},
      {reward, "reward", "train a reward model on pairs of a better and a worse completion"},
      {grpo, "grpo", "learn from rewards for sampled completions, each measured against its group (GRPO and its family)"},
      {ppo, "ppo", "learn from rewards for sampled completions with a value model, token by token (PPO; the last stage of RLHF)"},
      {rlhf, "rlhf", "demonstrations, pairs and prompts -> SFT, reward model, PPO: the three as one run with gates between them"},
      {rloo, "rloo", "learn from rewards for sampled completions, each measured against the others of its group (RLOO)"},
      {kto, "kto", "align a model with completions that are each labelled good or bad (KTO)"},
      {orpo, "orpo", "fine-tune on the better completions of pairs and prefer them, without a reference (ORPO)"},
      {simpo, "simpo", "align a model with pairs by their mean log-probability, without a reference (SimPO, CPO)"},
      {eval, "eval", "held-out loss and token accuracy; prompts: pass@k with a reward; pairs: a reward model's report, a policy's accuracy"},
      {sample, "sample", "generate from prompts (text or JSONL out)"},
      {chat, "chat", "talk to a model in the terminal"},
      {inspect, "inspect", "show rows as tokens with roles and weights; data set statistics"},
      {tokenize, "tokenize", "text -> ids, ids -> text (JSONL in, JSONL out)"},
      {score, "score", "per-token log-probabilities of rows (JSONL in, JSONL out)"},
      {grade, "grade", "rewards of given completions (JSONL in, JSONL out)"},
      {merge, "merge", "an adapter and its base into one model; checked against the two of them"},
      {convert, "convert", "a model into another form: a directory or a GGUF file; checked against its source"},
      {doctor, "doctor", "what this machine has and what is missing"},
  };
  return table;
}

const std::string& command_name(Command command) {
  for (const CommandInfo& info : commands()) {
    if (info.command == command) return info.name;
  }
  throw ProgrammerError(fmt::format("no command has the bits {}", static_cast<unsigned>(command)));
}

const Field* find_field(Command command, std::string_view name) {
  const std::string wanted = normal_name(name);
  for (const Field& field : fields()) {
    if (!(field.commands & command)) continue;
    if (field.name == wanted || std::find(field.aliases.begin(), field.aliases.end(), wanted) != field.aliases.end()) return &field;
  }
  return nullptr;
}

namespace {

template <class Number>
bool parse_whole(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

std::string number_text(double number) {
  return number == std::floor(number) && std::abs(number) < 1e15 ? fmt::format("{}", static_cast<int64_t>(number)) : fmt::format("{}", number);
}

std::string range_text(const Field& field) {
  const std::string low =
      fmt::format("{}{} {}", field.unset.empty() ? "" : field.unset + ", or ", field.minimum_open ? "above" : "at least", number_text(field.minimum));
  if (field.maximum >= 1e9) return low;
  return fmt::format("{}, {} {}", low, field.maximum_open ? "below" : "at most", number_text(field.maximum));
}

void check_range(const Field& field, double number, std::string_view text, const std::string& where) {
  const bool above = field.minimum_open ? number > field.minimum : number >= field.minimum;
  const bool below = field.maximum_open ? number < field.maximum : number <= field.maximum;
  if (!(above && below)) fail("{}: {} is out of range; allowed: {}", where, shown(text), range_text(field));
}

int64_t parse_integer(const Field& field, std::string_view text, const std::string& where) {
  int64_t number = 0;
  if (!parse_whole(text, number)) fail("{}: {} is not a whole number; allowed: {}", where, shown(text), range_text(field));
  check_range(field, static_cast<double>(number), text, where);
  return number;
}

double parse_double(const Field& field, std::string_view text, const std::string& where) {
  double number = 0;
  if (!parse_whole(text, number) || !std::isfinite(number)) fail("{}: {} is not a number; allowed: {}", where, shown(text), range_text(field));
  check_range(field, number, text, where);
  return number;
}

bool parse_bool(const Field& field, std::string_view text, const std::string& where) {
  if (const auto value = bool_value(text)) return *value;
  fail("{}: {} is not one of {}true, false", where, shown(text), field.unset.empty() ? "" : field.unset + ", ");
}

std::string parse_string(std::string_view text, const std::string& where) {
  if (text.find('\0') != std::string_view::npos || !is_utf8(text)) fail("{}: the value has bytes that are not text (UTF-8)", where);
  return std::string(text);
}

std::string offered(const Field& field) {
  std::string list;
  for (const std::string& name : field.choices) {
    if (std::find(field.later_choices.begin(), field.later_choices.end(), name) != field.later_choices.end()) continue;
    list += (list.empty() ? "" : ", ") + name;
  }
  return list;
}

/// The choice or list item that the text names, by field.choice_aliases.
std::string meant_by(const Field& field, std::string_view text) {
  for (const auto& [alias, meant] : field.choice_aliases) {
    if (text == alias || (alias.ends_with('*') && text.starts_with(std::string_view(alias).substr(0, alias.size() - 1)))) return meant;
  }
  return std::string(text);
}

int parse_choice(const Field& field, std::string_view text, const std::string& where) {
  const std::string name = meant_by(field, text);
  for (const auto& [refused, advice] : field.choice_advice) {
    if (name == refused) fail("{}: {} is not taken: {}", where, name, advice);
  }
  if (std::find(field.later_choices.begin(), field.later_choices.end(), name) != field.later_choices.end()) {
    fail("{}: {} comes with a later version of hone; this one has {}", where, name, offered(field));
  }
  const auto found = std::find(field.choices.begin(), field.choices.end(), name);
  if (found == field.choices.end()) {
    const std::string near = nearest_name(name, field.choices.data(), field.choices.data() + field.choices.size());
    fail("{}: {} is not one of {}{}", where, shown(text), offered(field), near.empty() ? "" : fmt::format(" (did you mean {}?)", near));
  }
  return static_cast<int>(found - field.choices.begin());
}

bool is_regular_expression(std::string_view text) { return text.find_first_of("\\^$*+?()[]{}|") != std::string_view::npos; }

void append(std::vector<std::string>& list, const Field& field, const std::string& text, const std::string& where) {
  if (!field.choices.empty()) return list.push_back(field.choices[static_cast<size_t>(parse_choice(field, text, where))]);
  if (!field.splits_at_commas || is_regular_expression(text)) return list.push_back(text);
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    if (end == begin) fail("{}: {} has an empty name", where, shown(text));
    list.push_back(meant_by(field, std::string_view(text).substr(begin, end - begin)));
    begin = end + 1;
  }
}

void append(std::vector<double>& list, const Field& field, std::string_view text, const std::string& where) {
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = field.splits_at_commas ? std::min(text.find(',', begin), text.size()) : text.size();
    list.push_back(parse_double(field, text.substr(begin, end - begin), where));
    begin = end + 1;
  }
}

template <class... Cases>
struct Overloaded : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overloaded(Cases...) -> Overloaded<Cases...>;

}  // namespace

void set_field(RunConfig& config, const Field& field, std::string_view text, const std::string& where) {
  const bool unset = !field.unset.empty() && text == field.unset;
  std::visit(
      Overloaded{
          [&](std::string RunConfig::*m) { config.*m = parse_string(text, where); },
          [&](int64_t RunConfig::*m) { config.*m = parse_integer(field, text, where); },
          [&](double RunConfig::*m) { config.*m = parse_double(field, text, where); },
          [&](bool RunConfig::*m) { config.*m = parse_bool(field, text, where); },
          [&](std::vector<std::string> RunConfig::*m) { append(config.*m, field, parse_string(text, where), where); },
          [&](std::vector<double> RunConfig::*m) { append(config.*m, field, text, where); },
          [&](std::optional<double> RunConfig::*m) { config.*m = unset ? std::nullopt : std::optional<double>(parse_double(field, text, where)); },
          [&](std::optional<int64_t> RunConfig::*m) { config.*m = unset ? std::nullopt : std::optional<int64_t>(parse_integer(field, text, where)); },
          [&](std::optional<bool> RunConfig::*m) { config.*m = unset ? std::nullopt : std::optional<bool>(parse_bool(field, text, where)); },
          [&](const DurationMember& m) { config.*m.member = unset ? std::nullopt : std::optional<double>(parse_duration(text, where)); },
          [&](const EnumMember& m) { m.set(config, parse_choice(field, text, where)); },
      },
      field.member);
}

void start_list(RunConfig& config, const Field& field) {
  if (const auto* list = std::get_if<std::vector<std::string> RunConfig::*>(&field.member)) (config.**list).clear();
  if (const auto* list = std::get_if<std::vector<double> RunConfig::*>(&field.member)) (config.**list).clear();
}

bool is_list(const Field& field) {
  return std::holds_alternative<std::vector<std::string> RunConfig::*>(field.member) ||
         std::holds_alternative<std::vector<double> RunConfig::*>(field.member);
}

bool applies(const RunConfig& config, const Field& field) {
  const auto chosen = [&](const std::string& loss) {
    return std::find(config.loss_type.begin(), config.loss_type.end(), loss) != config.loss_type.end();
  };
  if (!field.losses.empty() && std::none_of(field.losses.begin(), field.losses.end(), chosen)) return false;
  switch (field.needs) {
    case Needs::nothing:
      return true;
    case Needs::new_adapter:
      return config.use_peft && config.adapter.empty();
    case Needs::adapter:
      return config.use_peft;
    case Needs::four_bit:
      return config.load_in_4bit;
    case Needs::held_out:
      return !config.eval_file.empty();
    case Needs::synced_reference:
      return config.sync_ref_model;
    case Needs::alpha_divergence:
      return config.f_divergence_type == FDivergence::alpha_divergence;
    case Needs::dynamic_sampling:
      return config.dynamic_sampling;
    case Needs::kl_target:
      return config.kl_target.has_value();
  }
  return true;
}

std::string field_text(const RunConfig& config, const Field& field) {
  return std::visit(Overloaded{
                        [&](std::string RunConfig::*m) { return config.*m; },
                        [&](int64_t RunConfig::*m) { return fmt::format("{}", config.*m); },
                        [&](double RunConfig::*m) { return fmt::format("{}", config.*m); },
                        [&](bool RunConfig::*m) { return std::string(config.*m ? "true" : "false"); },
                        [&](std::vector<std::string> RunConfig::*m) { return fmt::format("{}", fmt::join(config.*m, " ")); },
                        [&](std::vector<double> RunConfig::*m) { return fmt::format("{}", fmt::join(config.*m, " ")); },
                        [&](std::optional<double> RunConfig::*m) { return config.*m ? fmt::format("{}", *(config.*m)) : field.unset; },
                        [&](std::optional<int64_t> RunConfig::*m) { return config.*m ? fmt::format("{}", *(config.*m)) : field.unset; },
                        [&](std::optional<bool> RunConfig::*m) { return config.*m ? std::string(*(config.*m) ? "true" : "false") : field.unset; },
                        [&](const DurationMember& m) { return config.*m.member ? duration_text(*(config.*m.member)) : field.unset; },
                        [&](const EnumMember& m) { return field.choices.at(static_cast<size_t>(m.get(config))); },
                    },
                    field.member);
}

RunConfig defaults(Command command) {
  RunConfig config;
  for (const Field& field : fields()) {
    if ((field.commands & command) && !field.default_value.empty()) set_field(config, field, field.default_value, field.name);
  }
  return config;
}

}  // namespace hone::config
