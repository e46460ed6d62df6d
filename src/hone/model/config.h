#pragma once
// What a model is, under the names of Hugging Face's config.json. Read from config.json (written by transformers 4 or 5) or from GGUF
// metadata; every number is validated here, before anything is allocated. What hone cannot compute is refused by name, never ignored.
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace hone::model {

class GgufFile;

struct ModelConfig {
  std::string architecture = "llama";  // config.json: model_type
  bool reward_model = false;           // LlamaForSequenceClassification with one label: a head score.weight (1, D) and no lm_head
  int64_t vocab_size = 0;              // V
  int64_t hidden_size = 0;             // D
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;  // H
  int64_t num_key_value_heads = 0;  // divides num_attention_heads
  int64_t head_dim = 0;             // explicit, else hidden_size / num_attention_heads; even
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  double initializer_range = 0.02;  // deviation of a new head
  int64_t max_position_embeddings = 2048;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // biases on q, k, v and also on o_proj, as in transformers
  std::string hidden_act = "silu";
  int64_t bos_token_id = -1;           // -1: none
  std::vector<int64_t> eos_token_ids;  // config.json allows one or a list
  int64_t pad_token_id = -1;
  std::string dtype = "float32";  // what the file says its weights are (torch_dtype or dtype); "mixed" for a quantised GGUF
  std::string original_json;      // the whole config.json as read, so that saving keeps what hone does not use; empty from GGUF
};

/// A tensor by its Hugging Face name and shape (rows first).
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  int64_t elements() const;
};

/// Parses the text of a config.json. `where` names the file in messages. UserError for what is broken or not supported.
ModelConfig parse_config_json(std::string_view text, const std::string& where);

/// The configuration in a GGUF file's metadata. Also needs its tensor list (a tied head, attention biases, the vocabulary's true size).
ModelConfig config_from_gguf(const GgufFile& file);

/// Throws a UserError naming the first number that is not positive, out of bounds, or does not divide as it must.
void validate_config(const ModelConfig& config, const std::string& where);

/// The config.json to save: `original_json` updated, in both the transformers 4 and the transformers 5 form. `dtype`: float32, bfloat16, float16.
std::string config_to_json(const ModelConfig& config, const std::string& dtype);

/// The same model with a reward head in place of its language-model head.
ModelConfig as_reward_model(ModelConfig config);

/// Every tensor of the model in file order: embedding, layers, final norm, lm_head.weight (only if the head is not tied); of a reward model
/// score.weight instead.
std::vector<TensorSpec> expected_tensors(const ModelConfig& config);

}  // namespace hone::model
