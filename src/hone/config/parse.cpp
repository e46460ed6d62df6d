#include "hone/config/parse.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/config/text_values.h"

namespace hone::config {
namespace {

constexpr size_t kConfigLimit = size_t{1} << 20;  // bytes of a YAML file

bool is_flag(const std::string& word) { return word.size() > 2 && word.starts_with("--"); }

bool may_stand_bare(const Field& field) {
  return std::holds_alternative<bool RunConfig::*>(field.member) || std::holds_alternative<std::optional<bool> RunConfig::*>(field.member);
}

/// The words of a command line, read one flag at a time.
class Reader {
 public:
  Reader(Arguments& arguments, std::span<const std::string> words) : arguments_(arguments), words_(words) {}

  void read_all() {
    while (next_ < words_.size()) read_one();
  }

 private:
  void read_one() {
    const std::string& word = words_[next_++];
    if (!is_flag(word)) {
      fail("hone {}: unexpected word {}; every value follows a flag (--data FILE)", command_name(arguments_.command), shown(word));
    }
    const size_t equals = word.find('=');
    const std::string name = normal_name(word.substr(2, equals == std::string::npos ? equals : equals - 2));
    std::vector<std::string> values;
    if (equals != std::string::npos) values.push_back(word.substr(equals + 1));
    if (name == "config") return set_config(values);
    const Field* field = find_field(arguments_.command, name);
    if (!field) fail("hone {}: {}", command_name(arguments_.command), explain_unknown(arguments_.command, word.substr(2, equals - 2), "flag"));
    set(*field, values, "--" + name);
  }

  void set(const Field& field, std::vector<std::string>& values, const std::string& where) {
    const bool repeated = !arguments_.given.insert(field.name).second;
    if (repeated && !is_list(field)) fail("{} is given twice", where);
    if (!repeated) start_list(arguments_.config, field);
    if (values.empty()) take_values(field, values, where);
    for (const std::string& value : values) set_field(arguments_.config, field, value, where);
  }

  void take_values(const Field& field, std::vector<std::string>& values, const std::string& where) {
    if (is_list(field)) {
      while (next_ < words_.size() && !is_flag(words_[next_])) values.push_back(words_[next_++]);
    } else if (may_stand_bare(field)) {
      const bool follows = next_ < words_.size() && (bool_value(words_[next_]) || (!field.unset.empty() && words_[next_] == field.unset));
      values.push_back(follows ? words_[next_++] : "true");
    } else if (next_ < words_.size() && !is_flag(words_[next_])) {
      values.push_back(words_[next_++]);
    }
    if (values.empty()) fail("{} needs a value: {} {}", where, where, value_name(field));
  }

  void set_config(std::vector<std::string>& values) {
    if (!arguments_.config_file.empty()) fail("--config is given twice");
    if (values.empty() && next_ < words_.size() && !is_flag(words_[next_])) values.push_back(words_[next_++]);
    if (values.empty() || values.front().empty()) fail("--config needs a value: --config FILE");
    arguments_.config_file = values.front();
  }

  Arguments& arguments_;
  std::span<const std::string> words_;
  size_t next_ = 0;
};

/// Help is looked for first, so that it comes whatever else is wrong with the line.
Help help_wanted(std::span<const std::string> words) {
  Help help = Help::none;
  for (const std::string& word : words) {
    if (word == "--help_all" || word == "--help-all") return Help::all;
    if (word == "--help" || (word == "-h" && &word == &words.front())) help = Help::common;
  }
  return help;
}

/// Everything that can be wrong with the stages is found here, under the name that the folder will have.
Arguments with_sections(Arguments arguments) {
  if (arguments.config_file.empty()) fail("hone rlhf needs a file with the sections sft, reward and ppo: add --config FILE");
  apply_sections(arguments, read_text(arguments.config_file, kConfigLimit), arguments.config_file.string());
  const std::string& folder = arguments.config.output_dir;
  if (arguments.config.resume && folder.empty()) fail("--resume needs the run to go on with: add --output_dir DIR");
  connect_stages(arguments, folder.empty() ? "runs/rlhf-001" : folder);
  return arguments;
}

}  // namespace

Arguments parse_arguments(Command command, std::span<const std::string> words) {
  Arguments arguments;
  arguments.command = command;
  arguments.config = defaults(command);
  arguments.help = help_wanted(words);
  if (arguments.help != Help::none) return arguments;
  Reader(arguments, words).read_all();
  if (command == rlhf) return with_sections(std::move(arguments));
  if (!arguments.config_file.empty()) {
    apply_yaml(arguments, read_text(arguments.config_file, kConfigLimit), arguments.config_file.string());
  }
  resolve_defaults(arguments);
  validate(arguments);
  return arguments;
}

}  // namespace hone::config
