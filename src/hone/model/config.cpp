// Bounds, the list of tensors, and writing config.json.
#include "hone/model/config.h"

#include <cmath>

#include "hone/base/error.h"
#include "hone/model/json.h"

namespace hone::model {
namespace {

// Bounds far above any model that one machine trains, low enough that no product of them leaves 62 bits.
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 8192;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxPositions = int64_t{1} << 31;

void bound(const std::string& where, const char* name, int64_t value, int64_t most) {
  if (value < 1 || value > most) fail("{}: {} is {}; it must lie between 1 and {}", where, name, value, most);
}

void token_bound(const std::string& where, const char* name, int64_t id, int64_t vocab_size) {
  if (id < -1 || id >= vocab_size) fail("{}: {} is {}; the vocabulary has ids 0 to {}", where, name, id, vocab_size - 1);
}

void id_or_null(nlohmann::ordered_json& json, const char* key, int64_t id) {
  if (id >= 0) {
    json[key] = id;
  } else {
    json[key] = nullptr;
  }
}

}  // namespace

int64_t TensorSpec::elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

void validate_config(const ModelConfig& config, const std::string& where) {
  bound(where, "vocab_size", config.vocab_size, kMaxVocab);
  bound(where, "hidden_size", config.hidden_size, kMaxWidth);
  bound(where, "intermediate_size", config.intermediate_size, kMaxWidth);
  bound(where, "num_hidden_layers", config.num_hidden_layers, kMaxLayers);
  bound(where, "num_attention_heads", config.num_attention_heads, kMaxHeads);
  bound(where, "num_key_value_heads", config.num_key_value_heads, kMaxHeads);
  bound(where, "head_dim", config.head_dim, kMaxHeadDim);
  bound(where, "max_position_embeddings", config.max_position_embeddings, kMaxPositions);
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    fail("{}: num_attention_heads ({}) is no multiple of num_key_value_heads ({})", where, config.num_attention_heads, config.num_key_value_heads);
  if (config.head_dim % 2 != 0) fail("{}: head_dim is {}; rotary positions need an even number", where, config.head_dim);
  bound(where, "num_attention_heads * head_dim", config.num_attention_heads * config.head_dim, kMaxWidth);
  if (!(config.rms_norm_eps > 0.0 && config.rms_norm_eps <= 1.0))
    fail("{}: rms_norm_eps is {}; it must be above 0 and at most 1", where, config.rms_norm_eps);
  if (!(config.initializer_range >= 0.0 && config.initializer_range <= 100.0))
    fail("{}: initializer_range is {}; it must lie between 0 and 100", where, config.initializer_range);
  if (!(config.rope_theta >= 1.0 && config.rope_theta <= 1e15))
    fail("{}: rope_theta is {}; it must lie between 1 and 1e15", where, config.rope_theta);
  token_bound(where, "bos_token_id", config.bos_token_id, config.vocab_size);
  token_bound(where, "pad_token_id", config.pad_token_id, config.vocab_size);
  for (const int64_t id : config.eos_token_ids) token_bound(where, "eos_token_id", id, config.vocab_size);
}

std::vector<TensorSpec> expected_tensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size, wide = config.intermediate_size;
  const int64_t q = config.num_attention_heads * config.head_dim, kv = config.num_key_value_heads * config.head_dim;
  std::vector<TensorSpec> tensors;
  tensors.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const auto attention = [&](const char* name, int64_t rows, int64_t columns) {
      tensors.push_back({fmt::format("{}self_attn.{}.weight", prefix, name), {rows, columns}});
      if (config.attention_bias) tensors.push_back({fmt::format("{}self_attn.{}.bias", prefix, name), {rows}});
    };
    tensors.push_back({prefix + "input_layernorm.weight", {hidden}});
    attention("q_proj", q, hidden);
    attention("k_proj", kv, hidden);
    attention("v_proj", kv, hidden);
    attention("o_proj", hidden, q);
    tensors.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
    tensors.push_back({prefix + "mlp.gate_proj.weight", {wide, hidden}});
    tensors.push_back({prefix + "mlp.up_proj.weight", {wide, hidden}});
    tensors.push_back({prefix + "mlp.down_proj.weight", {hidden, wide}});
  }
  tensors.push_back({"model.norm.weight", {hidden}});
  if (config.reward_model)
    tensors.push_back({"score.weight", {1, hidden}});
  else if (!config.tie_word_embeddings)
    tensors.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return tensors;
}

ModelConfig as_reward_model(ModelConfig config) {
  config.reward_model = true;
  return config;
}

std::string config_to_json(const ModelConfig& config, const std::string& dtype) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!config.original_json.empty()) json = nlohmann::ordered_json::parse(config.original_json);
  // Where the source came from, who wrote it last and how it was quantised are no longer true of what is saved.
  for (const char* key :
       {"_name_or_path", "quantization_config", "transformers_version", "torch_dtype", "dtype", "rope_theta", "rope_scaling", "rope_parameters"})
    json.erase(key);
  json["architectures"] = {config.reward_model ? "LlamaForSequenceClassification" : "LlamaForCausalLM"};
  if (config.reward_model) {
    json["id2label"] = {{"0", "LABEL_0"}};  // transformers 4 and 5 count the labels by it
    json["label2id"] = {{"LABEL_0", 0}};
    json.erase("num_labels");
    json.erase("problem_type");
  }
  json["model_type"] = config.architecture;
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["num_attention_heads"] = config.num_attention_heads;
  json["num_key_value_heads"] = config.num_key_value_heads;
  json["head_dim"] = config.head_dim;
  json["hidden_act"] = config.hidden_act;
  json["max_position_embeddings"] = config.max_position_embeddings;
  json["rms_norm_eps"] = config.rms_norm_eps;
  json["attention_bias"] = config.attention_bias;
  json["mlp_bias"] = false;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  id_or_null(json, "bos_token_id", config.bos_token_id);
  id_or_null(json, "pad_token_id", config.pad_token_id);
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids[0];
  } else if (config.eos_token_ids.empty()) {
    json["eos_token_id"] = nullptr;
  } else {
    json["eos_token_id"] = config.eos_token_ids;
  }
  json["rope_theta"] = config.rope_theta;  // transformers 4 reads these three,
  json["rope_scaling"] = nullptr;
  json["torch_dtype"] = dtype;
  json["rope_parameters"] = {{"rope_theta", config.rope_theta}, {"rope_type", "default"}};  // transformers 5 these two
  json["dtype"] = dtype;
  return json.dump(2) + "\n";
}

}  // namespace hone::model
