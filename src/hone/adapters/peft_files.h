#pragma once
// An adapter directory as PEFT 0.21 reads and writes it: adapter_config.json and adapter_model.safetensors, and beside them
// hone_adapter.json with the hashes of the base that it was trained on (PEFT and vLLM ignore that file).
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
  std::string base_hash;     // ModelSource::content_hash of the base, from hone_adapter.json; empty for an adapter of another tool
  std::string weights_hash;  // model::weights_hash of the base, from there too; empty where it was not known
  std::filesystem::path folder;
  std::shared_ptr<model::SafetensorsFile> file;
  /// Tensors by plain name: "model.layers.0.self_attn.q_proj.lora_A.weight", "….lora_B.weight", "….lora_magnitude_vector" (DoRA) and, for
  /// modules_to_save, "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight", …
  std::map<std::string, model::TensorView> tensors;
  std::map<std::string, ModuleRank> ranks;  // every module that has a lora_A, by plain module name "model.layers.0.self_attn.q_proj"
};

/// Reads and checks an adapter directory. UserError (exit 2): not an adapter directory, a peft_type that is not LORA (named), an option hone
/// does not have and that changes the result (named: lora_bias, layer_replication, megatron_config, trainable_token_indices, target_parameters,
/// alora, …), an initialisation that changed the base (pissa, olora, corda, loftq, lora_ga) and was not converted on saving, a lora_A without
/// its lora_B, shapes that disagree with r, a tensor that PEFT would not use, a key that is not understood. NaN is not looked for.
/// An embedding or head that PEFT saved because the vocabulary grew is added to config.modules_to_save.
PeftAdapter read_peft(const std::filesystem::path& folder);

/// As PeftAdapter::base_hash and weights_hash.
struct BaseHashes {
  std::string content;
  std::string weights = {};
};

/// Writes the directory, atomically (temporary folder beside it, synced, renamed); an existing adapter folder is replaced. `tensors` have plain
/// names as in PeftAdapter, are written in float32 and get PEFT's prefix "base_model.model.". A module's rank is that of its lora_A and its alpha
/// config.lora_alpha, unless `ranks` has other ones for it (as read_peft gave them); rank_pattern and alpha_pattern say where they differ from the
/// configuration. `texts` are further files by name (the tokenizer's). The tensors belong to the unchanged base: PiSSA's difference to its start is
/// what the caller gives (rank 2 r, alpha doubled).
void write_peft(const std::filesystem::path& folder, const LoraConfig& config, const BaseHashes& base, std::span<const model::TensorProducer> tensors,
                const std::map<std::string, ModuleRank>& ranks = {}, const std::map<std::string, std::string>& texts = {});

}  // namespace hone::adapters
