#pragma once
// The modules of a llama model by their Hugging Face names, and which of them an adapter's configuration means.
#include <cstdint>
#include <string>
#include <vector>

#include "hone/adapters/lora_config.h"
#include "hone/model/config.h"

namespace hone::adapters {

/// A linear of a block, such as "model.layers.0.self_attn.q_proj". Modules of one `linear` share one matrix (q, k, v; gate, up).
struct Module {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  uint32_t linear = 0;  // 4 a block: qkv, o, gate_up, down
};
std::vector<Module> linear_modules(const model::ModelConfig& model);

/// The modules that get a side path, in the model's order. A target is "all-linear", a name or the end of one ("q_proj"), or, where it holds
/// a character of regular expressions, an expression for whole names. UserError: no module matches (the nearest name is given), the head or
/// the embedding is targeted, r is larger than a matrix, DoRA with dropout.
std::vector<Module> targeted_modules(const model::ModelConfig& model, const LoraConfig& config);

/// The tensors that modules_to_save means, in the model's order: "model.embed_tokens.weight", norms, "lm_head.weight", or for a reward adapter
/// always "score.weight". UserError for others.
std::vector<std::string> saved_tensors(const model::ModelConfig& model, const LoraConfig& config);

/// lora_alpha / r, with rsLoRA lora_alpha / sqrt(r).
double scaling_of(const LoraConfig& config, int64_t r, double lora_alpha);

}  // namespace hone::adapters
