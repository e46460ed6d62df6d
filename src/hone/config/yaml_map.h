#pragma once
// The maps of a YAML file as fields of a command; what hone COMMAND and hone rlhf read their files with.
#include <yaml-cpp/yaml.h>

#include <set>
#include <string>

#include "hone/config/parse.h"

namespace hone::config {

/// "FILE:LINE".
std::string yaml_place(const std::string& file, const YAML::Mark& mark);
/// The document of the text; a null node of an empty one. yaml-cpp bounds the nesting; an alias is a second name of one node, so a file cannot
/// grow in memory, and only scalars, flat lists of scalars and maps of these are ever walked.
YAML::Node load_yaml(const std::string& text, const std::string& file);
/// The text of a key; UserError where it is none.
const std::string& yaml_key(const YAML::Node& key, const std::string& file);
/// Sets the fields that the map names, but not those of `by_flag` (their values are checked all the same), and notes them as given.
void apply_map(Arguments& arguments, const YAML::Node& map, const std::string& file, const std::set<std::string>& by_flag);

/// Fields that belong to hone rlhf as a whole, never to a section.
bool is_of_whole_run(const std::string& name);

/// The keys of the section `gate`.
struct GateField {
  const char* name;
  std::optional<double> Gates::*member;
  double maximum;
  Command stage;
};
constexpr GateField kGateFields[] = {{"max_eval_loss", &Gates::max_eval_loss, 1e6, sft},
                                     {"min_reward_accuracy", &Gates::min_reward_accuracy, 1, reward},
                                     {"max_kl", &Gates::max_kl, 1e6, ppo}};

}  // namespace hone::config
