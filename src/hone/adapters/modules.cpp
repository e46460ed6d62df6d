#include "hone/adapters/modules.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "hone/adapters/patterns.h"
#include "hone/base/error.h"

namespace hone::adapters {
namespace {

[[noreturn]] void fail_target(const std::string& target, const std::vector<Module>& modules) {
  for (const char* outside : {"lm_head", "embed_tokens", "model.embed_tokens"})
    if (target == outside)
      fail("--lora_target_modules {}: the head and the embedding get no low-rank path; train them in full with --lora_modules_to_save {}", target,
           target == "lm_head" ? "lm_head" : "embed_tokens");
  std::vector<std::string> known;
  for (const Module& m : modules) {
    const std::string last = m.name.substr(m.name.rfind('.') + 1);
    if (std::find(known.begin(), known.end(), last) == known.end()) known.push_back(last);
  }
  const std::string near = nearest_name(target, known.data(), known.data() + known.size());
  std::string all;
  for (const std::string& name : known) all += (all.empty() ? "" : ", ") + name;
  fail("--lora_target_modules {}: the model has no such linear{}; its linears are {}", target, near.empty() ? "" : "; did you mean " + near + "?",
       all);
}

}  // namespace

std::vector<Module> linear_modules(const model::ModelConfig& c) {
  const int64_t D = c.hidden_size, F = c.intermediate_size, q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  std::vector<Module> modules;
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    const auto linear = static_cast<uint32_t>(4 * i);
    modules.push_back({block + "self_attn.q_proj", q, D, linear});
    modules.push_back({block + "self_attn.k_proj", kv, D, linear});
    modules.push_back({block + "self_attn.v_proj", kv, D, linear});
    modules.push_back({block + "self_attn.o_proj", D, q, linear + 1});
    modules.push_back({block + "mlp.gate_proj", F, D, linear + 2});
    modules.push_back({block + "mlp.up_proj", F, D, linear + 2});
    modules.push_back({block + "mlp.down_proj", D, F, linear + 3});
  }
  return modules;
}

std::vector<Module> targeted_modules(const model::ModelConfig& model, const LoraConfig& config) {
  if (config.use_dora && config.lora_dropout > 0)
    fail("--use_dora with --lora_dropout {}: DoRA has no dropout here; give --lora_dropout 0", config.lora_dropout);
  const std::vector<Module> modules = linear_modules(model);
  std::vector<bool> wanted(modules.size(), false);
  for (const std::string& target : config.target_modules) {
    bool any = false;
    const bool all = target == "all-linear";
    std::optional<NamePattern> pattern;
    if (!all && !is_plain_name(target)) pattern.emplace(target, "--lora_target_modules");
    for (size_t i = 0; i < modules.size(); ++i)
      if (all || (pattern ? pattern->matches(modules[i].name) : names_module(target, modules[i].name))) any = wanted[i] = true;
    if (!any) fail_target(target, modules);
  }
  std::vector<Module> chosen;
  for (size_t i = 0; i < modules.size(); ++i) {
    if (!wanted[i]) continue;
    const Module& m = modules[i];
    if (config.r < 1 || config.r > std::min(m.rows, m.cols))
      fail("--lora_r {}: {} is a ({}, {}) matrix, its rank is at most {}", config.r, m.name, m.rows, m.cols, std::min(m.rows, m.cols));
    chosen.push_back(m);
  }
  if (chosen.empty()) fail("--lora_target_modules: no module is targeted");
  return chosen;
}

std::vector<std::string> saved_tensors(const model::ModelConfig& c, const LoraConfig& config) {
  std::vector<std::string> modules{"model.embed_tokens"};
  for (int64_t i = 0; i < c.num_hidden_layers; ++i)
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) modules.push_back(fmt::format("model.layers.{}.{}", i, norm));
  const bool reward = config.task == Task::seq_cls;
  modules.insert(modules.end(), {"model.norm", reward ? "score" : "lm_head"});
  std::vector<bool> wanted(modules.size(), false);
  if (reward) wanted.back() = true;
  for (const std::string& name : config.modules_to_save) {
    bool any = false;
    for (size_t i = 0; i < modules.size(); ++i)
      if (names_module(name, modules[i])) any = wanted[i] = true;
    if (any) continue;
    if (reward && name == "lm_head") fail("--lora_modules_to_save lm_head: a reward model has no language-model head");
    const std::vector<std::string> known{"embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"};
    const std::string near = nearest_name(name, known.data(), known.data() + known.size());
    fail("--lora_modules_to_save {}: only embed_tokens, lm_head, norm, input_layernorm and post_attention_layernorm can be trained in full{}", name,
         near.empty() ? "" : "; did you mean " + near + "?");
  }
  std::vector<std::string> tensors;
  for (size_t i = 0; i < modules.size(); ++i)
    if (wanted[i]) tensors.push_back(modules[i] + ".weight");
  return tensors;
}

double scaling_of(const LoraConfig& config, int64_t r, double lora_alpha) {
  return config.use_rslora ? lora_alpha / std::sqrt(static_cast<double>(r)) : lora_alpha / static_cast<double>(r);
}

}  // namespace hone::adapters
