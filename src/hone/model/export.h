#pragma once
// A model folder that transformers (4 and 5) opens unchanged: weights, configuration, tokenizer, template, end tokens. Written into a
// temporary folder beside the final one, synced and renamed, so that a folder under the final name is always whole.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hone/model/config.h"
#include "hone/model/dequantize.h"

namespace hone::model {

struct SavedModel {
  ModelConfig config;  // its bos, eos and pad ids also go into generation_config.json
  /// Fills rows [begin, end) of the tensor with this Hugging Face name as float32, half-split Q/K order.
  std::function<void(const std::string& name, int64_t begin, int64_t end, float* out)> produce;
  std::string tokenizer_json;                              // text of tokenizer.json; empty: no tokenizer is saved
  std::string tokenizer_config_json;                       // text of tokenizer_config.json; the tokens below are set in it
  std::string chat_template;                               // empty: none
  std::string bos_token, eos_token, unk_token, pad_token;  // as text; eos_token is the token that ends a turn; empty: none
  std::vector<int64_t> end_of_turn_ids;                    // generation stops at these; empty: config.eos_token_ids
  std::string generation_config_json;                      // what the source had (sampling defaults are kept); may be empty
  DType dtype = DType::f32;                                // f32, bf16 or f16, rounded to nearest even
  int64_t max_shard_bytes = 5'000'000'000;                 // transformers' default
};

/// Writes the folder. An existing model folder (one with config.json) or an empty folder is replaced in one step; anything else is refused.
/// UserError (exit 4) when the disk is full; what stood there before is then untouched.
void save_model(const std::filesystem::path& folder, const SavedModel& model);

/// The tokenizer_config.json that save_model writes, and that stands beside an adapter.
std::string tokenizer_config_text(const SavedModel& model);

/// Bytes that save_model will write for the weights, for the check of disk space before a run.
int64_t saved_bytes(const ModelConfig& config, DType dtype);

}  // namespace hone::model
