#pragma once
// adapter_config.json as PEFT 0.21 writes and reads it.
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hone/adapters/lora_config.h"
#include "hone/adapters/patterns.h"
#include "hone/adapters/peft_files.h"

namespace hone::adapters {

/// The configuration and the rules that say which modules have an adapter, and of which rank.
struct PeftConfig {
  LoraConfig lora;
  bool all_linear = false;                    // target_modules is the word "all-linear"
  std::optional<NamePattern> target_pattern;  // target_modules is one string: a regular expression
  std::vector<std::string> exclude_names;
  std::optional<NamePattern> exclude_pattern;
  std::vector<int64_t> layers;                                // layers_to_transform; empty: all
  std::vector<NamePattern> layer_prefixes;                    // layers_pattern, as prefix of ".INDEX.rest"; empty: any
  std::vector<std::pair<NamePattern, int64_t>> rank_pattern;  // in the file's order: the first that matches counts
  std::vector<std::pair<NamePattern, double>> alpha_pattern;
};

/// UserError naming `where` and the option for everything that hone would not compute as PEFT does.
PeftConfig parse_peft_config(std::string_view text, const std::string& where);

/// Whether PEFT puts an adapter on this module.
bool is_target(const PeftConfig& config, std::string_view module);

/// Rank and alpha that the configuration gives to a module.
ModuleRank module_rank(const PeftConfig& config, std::string_view module);

/// The text of adapter_config.json for the modules that have an adapter, by plain name.
std::string peft_config_text(const LoraConfig& config, const std::map<std::string, ModuleRank>& modules);

}  // namespace hone::adapters
