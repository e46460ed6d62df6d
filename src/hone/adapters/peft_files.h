#pragma once
// An adapter directory as PEFT 0.21 reads and writes it: adapter_config.json and adapter_model.safetensors, and beside them
// hone_adapter.json with the content hash of the base that it was trained on (PEFT and vLLM ignore that file).
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "hone/adapters/lora_config.h"
#include "hone/model/safetensors.h"

namespace hone::adapters {

/// Rank and alpha of one module where rank_pattern or alpha_pattern make it differ from the configuration's.
struct ModuleRank {
  int64_t r = 0;
  double lora_alpha = 0;
};

struct PeftAdapter {
  LoraConfig config;
  std::string base_hash;  // ModelSource::content_hash of the base, from hone_adapter.json; empty for an adapter of another tool
  std::filesystem::path folder;
  std::shared_ptr<model::SafetensorsFile> file;
  /// Tensors by plain name: "model.layers.0.self_attn.q_proj.lora_A.weight", "….lora_B.weight", "….lora_magnitude_vector" (DoRA) and, for
  /// modules_to_save, "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", …
  std::map<std::string, model::TensorView> tensors;
  std::map<std::string, ModuleRank> ranks;  // every module that has a lora_A, by plain module name "model.layers.0.self_attn.q_proj"
};

/// Reads and checks an adapter directory. UserError (exit 2): not an adapter directory, a peft_type that is not LORA (named), an option hone
/// does not have and that changes the result (named: lora_bias, layer_replication, megatron_config, eva, corda, loftq, trainable tokens,
/// target_parameters, alora, …), a lora_A without its lora_B, shapes that disagree with r, a key that is not understood.
PeftAdapter read_peft(const std::filesystem::path& folder);

/// Writes the directory, atomically (temporary folder beside it, synced, renamed). `tensors` have plain names as in PeftAdapter; they are
/// written with PEFT's prefix "base_model.model.". rank/alpha patterns are written where a module's rank differs from config.r.
void write_peft(const std::filesystem::path& folder, const LoraConfig& config, const std::string& base_hash, std::span<const model::TensorProducer> tensors);

}  // namespace hone::adapters
