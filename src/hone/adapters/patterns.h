#pragma once
// Module names against the patterns of a LoRA configuration, with PEFT's meaning (re of Python, run by PCRE2 with bounded work).
#include <memory>
#include <string>
#include <string_view>

namespace hone::adapters {

/// A regular expression that has to match a whole module name.
class NamePattern {
 public:
  /// UserError naming `where` when the expression is not valid (with PCRE2's words and the position) or too long.
  NamePattern(const std::string& expression, const std::string& where);
  /// UserError when matching takes more steps than a name can be worth.
  bool matches(std::string_view name) const;

 private:
  std::string expression_, where_;
  std::shared_ptr<void> code_;
};

/// Only letters, digits, '_' and '.': a name, no expression.
bool is_plain_name(std::string_view text);

/// A name as target: the module's whole name, or the end of it after a dot ("q_proj", "self_attn.q_proj").
bool names_module(std::string_view target, std::string_view module);

/// A name in modules_to_save: the module itself or one that holds it ("lm_head"; "self_attn" holds model.layers.0.self_attn.q_proj).
bool holds_module(std::string_view saved, std::string_view module);

}  // namespace hone::adapters
