// Reading a configuration: config.json of transformers 4 and 5, and GGUF metadata.
#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "hone/base/error.h"
#include "hone/model/config.h"
#include "hone/model/gguf.h"
#include "hone/model/json.h"

namespace hone::model {
namespace {

using nlohmann::json;

using Fields = JsonFields;

constexpr const char* kRewardArchitecture = "LlamaForSequenceClassification";

// Whether this is a reward model: a sequence classifier with one label. transformers counts the labels by id2label, else num_labels, else 2.
bool read_reward_model(const Fields& fields) {
  const json* names = fields.find("architectures");
  if (names == nullptr || (*names)[0] != kRewardArchitecture) return false;
  int64_t labels = fields.integer("num_labels", 2);
  if (const json* by_id = fields.find("id2label")) {
    if (!by_id->is_object()) fail("{}: id2label is {}, an object was expected", fields.where, by_id->type_name());
    labels = static_cast<int64_t>(by_id->size());
  }
  if (labels != 1)
    fail("{}: {} with {} labels is a classifier, no reward model; supported is one label (num_labels 1)", fields.where, kRewardArchitecture, labels);
  return true;
}

// What transformers + bitsandbytes write for 4 bits is read; every other method is refused by its name.
void refuse_quantization(const Fields& fields) {
  const json* value = fields.find("quantization_config");
  if (value == nullptr) return;
  const std::string where = fields.where + ": quantization_config";
  if (!value->is_object()) fail("{} is {}, an object was expected", where, value->dump());
  const Fields quantization{*value, where};
  const bool eight = quantization.boolean("load_in_8bit", false);
  const std::string method = quantization.string("quant_method", eight || value->contains("load_in_4bit") ? "bitsandbytes" : "(none)");
  if (method != "bitsandbytes")
    fail("{} ({}) is not supported; supported is bitsandbytes with load_in_4bit. Use the unquantised model, or a GGUF file", where, method);
  if (eight) fail("{}: load_in_8bit is not supported; supported is load_in_4bit. Use the unquantised model", where);
  if (!quantization.boolean("load_in_4bit", false)) fail("{}: neither load_in_4bit nor anything else that is supported is on", where);
  if (const std::string storage = quantization.string("bnb_4bit_quant_storage", "uint8"); storage != "uint8")
    fail("{}: bnb_4bit_quant_storage {} is not supported; supported is uint8", where, storage);
}

void refuse_unsupported(const Fields& fields) {
  const std::string& where = fields.where;
  const std::string type = fields.string("model_type", "");
  if (type != "llama") fail("{}: model_type {} is not supported; supported is llama", where, type.empty() ? "(none)" : type);
  if (const json* names = fields.find("architectures"))
    if (!names->is_array() || names->size() != 1 || ((*names)[0] != "LlamaForCausalLM" && (*names)[0] != kRewardArchitecture))
      fail("{}: architectures {} is not supported; supported are [\"LlamaForCausalLM\"] and, with one label, [\"{}\"]", where,
           names->dump(-1, ' ', true, json::error_handler_t::replace), kRewardArchitecture);
  const std::string activation = fields.string("hidden_act", "silu");
  if (activation != "silu") fail("{}: hidden_act {} is not supported; supported is silu", where, activation);
  if (fields.boolean("mlp_bias", false)) fail("{}: mlp_bias true is not supported; supported is false", where);
  refuse_quantization(fields);
  if (fields.find("sliding_window") != nullptr && fields.boolean("use_sliding_window", true))
    fail("{}: sliding_window {} is not supported; supported is full attention (null)", where, fields.find("sliding_window")->dump());
  if (const json* layers = fields.find("layer_types"))
    for (const json& layer : *layers)
      if (layer != "full_attention") fail("{}: layer_types {} is not supported; supported is \"full_attention\"", where, layer.dump());
  if (fields.integer("pretraining_tp", 1) > 1)
    fail("{}: pretraining_tp {} is not supported; supported is 1", where, fields.integer("pretraining_tp"));
  if (fields.number("attention_dropout", 0.0) != 0.0)
    fail("{}: attention_dropout {} is not supported; supported is 0", where, fields.number("attention_dropout", 0.0));
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"})
    if (fields.integer(key, 0) > 0)
      fail("{}: {} {} (a mixture of experts) is not supported; supported are dense models", where, key, fields.integer(key));
  for (const char* key : {"rope_interleaved", "is_encoder_decoder", "add_cross_attention"})
    if (fields.boolean(key, false)) fail("{}: {} true is not supported; supported is false", where, key);
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping", "auto_map"})
    if (fields.find(key) != nullptr) fail("{}: {} is not supported; it must be absent", where, key);
  for (const char* key : {"partial_rotary_factor", "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"})
    if (fields.number(key, 1.0) != 1.0) fail("{}: {} {} is not supported; supported is 1", where, key, fields.number(key, 1.0));
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 rope_parameters; a file may have both.
double read_rope(const Fields& fields) {
  double theta = fields.number("rope_theta", 0.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* value = fields.find(key);
    if (value == nullptr) continue;
    const std::string where = fmt::format("{}: {}", fields.where, key);
    if (!value->is_object()) fail("{} is {}, an object was expected", where, value->dump());
    const Fields rope{*value, where};
    const std::string type = rope.string("rope_type", rope.string("type", "default"));
    if (type != "default") fail("{}: rope_type {} is not supported; supported is default", where, type);
    for (const auto& [name, entry] : value->items())
      if (name != "rope_type" && name != "type" && name != "rope_theta" && !(name == "partial_rotary_factor" && entry == 1.0))
        fail("{}: {} {} is not supported; supported are rope_type and rope_theta", where, name, entry.dump());
    const double inner = rope.number("rope_theta", theta);
    if (theta != 0.0 && inner != theta) fail("{} says rope_theta {}, but {} stands beside it", where, inner, theta);
    theta = inner;
  }
  return theta == 0.0 && fields.find("rope_theta") == nullptr ? 10000.0 : theta;
}

std::vector<int64_t> read_eos(const Fields& fields) {
  std::vector<int64_t> ids;
  const json* value = fields.find("eos_token_id");
  if (value == nullptr) return ids;
  if (!value->is_array()) return {fields.as_integer("eos_token_id", *value)};
  for (const json& id : *value) ids.push_back(fields.as_integer("eos_token_id", id));
  return ids;
}

// The same key with the architecture's prefix.
std::string llama(const char* name) { return fmt::format("llama.{}", name); }

int64_t required(const GgufFile& file, const char* name) {
  const auto value = file.integer(llama(name));
  if (!value) fail("{}: metadata {} is missing", file.where(), llama(name));
  return *value;
}

void refuse_unsupported(const GgufFile& file) {
  const std::string architecture = file.string("general.architecture").value_or("(none)");
  if (architecture != "llama") fail("{}: architecture {} is not supported; supported is llama", file.where(), architecture);
  // Keys whose meaning is known here, or that change nothing. Any other key of the architecture could change the function computed.
  static const std::set<std::string> known{"vocab_size",
                                           "context_length",
                                           "embedding_length",
                                           "block_count",
                                           "feed_forward_length",
                                           "tensor_data_layout",
                                           "attention.head_count",
                                           "attention.head_count_kv",
                                           "attention.key_length",
                                           "attention.value_length",
                                           "attention.layer_norm_rms_epsilon",
                                           "attention.causal",
                                           "rope.dimension_count",
                                           "rope.freq_base",
                                           "rope.scaling.type",
                                           "rope.scaling.factor",
                                           "rope.scaling.original_context_length",
                                           "rope.scaling.finetuned",
                                           "rope.scale_linear",
                                           "expert_count",
                                           "expert_used_count"};
  for (const auto& [key, value] : file.metadata())
    if (key.starts_with("llama.") && !known.count(key.substr(6))) fail("{}: metadata {} is not supported", file.where(), key);
  if (const auto type = file.string(llama("rope.scaling.type")); type && *type != "none")
    fail("{}: {} {} is not supported; supported is none", file.where(), llama("rope.scaling.type"), *type);
  for (const char* name : {"rope.scaling.factor", "rope.scale_linear"})
    if (file.number(llama(name)).value_or(1.0) != 1.0)
      fail("{}: {} {} is not supported; supported is 1", file.where(), llama(name), *file.number(llama(name)));
  if (file.integer(llama("expert_count")).value_or(0) > 0)
    fail("{}: {} {} (a mixture of experts) is not supported; supported are dense models", file.where(), llama("expert_count"),
         *file.integer(llama("expert_count")));
  if (!file.boolean(llama("attention.causal")).value_or(true))
    fail("{}: {} false is not supported; supported is true", file.where(), llama("attention.causal"));
  if (file.tensors().count("rope_freqs.weight"))
    fail("{}: tensor rope_freqs.weight (rope type llama3) is not supported; supported is default", file.where());
}

std::string gguf_dtype(const GgufFile& file) {
  std::set<DType> matrices;
  for (const auto& [name, view] : file.tensors())
    if (view.shape.size() == 2) matrices.insert(view.dtype);
  if (matrices == std::set{DType::f32}) return "float32";
  if (matrices == std::set{DType::f16}) return "float16";
  if (matrices == std::set{DType::bf16}) return "bfloat16";
  return "mixed";
}

}  // namespace

ModelConfig parse_config_json(std::string_view text, const std::string& where) {
  const json object = parse_json_object(text, where);
  const Fields fields{object, where};
  refuse_unsupported(fields);
  ModelConfig config;
  config.reward_model = read_reward_model(fields);
  config.vocab_size = fields.integer("vocab_size");
  config.hidden_size = fields.integer("hidden_size");
  config.intermediate_size = fields.integer("intermediate_size");
  config.num_hidden_layers = fields.integer("num_hidden_layers");
  config.num_attention_heads = fields.integer("num_attention_heads");
  config.num_key_value_heads = fields.integer("num_key_value_heads", config.num_attention_heads);
  if (config.num_attention_heads < 1) fail("{}: num_attention_heads is {}; it must be at least 1", where, config.num_attention_heads);
  config.head_dim = fields.integer("head_dim", 0);
  if (fields.find("head_dim") == nullptr) {
    if (config.hidden_size % config.num_attention_heads != 0)
      fail("{}: hidden_size ({}) is no multiple of num_attention_heads ({}) and there is no head_dim", where, config.hidden_size,
           config.num_attention_heads);
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  config.rms_norm_eps = fields.number("rms_norm_eps", 1e-6);
  config.initializer_range = fields.number("initializer_range", 0.02);
  config.rope_theta = read_rope(fields);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 2048);
  config.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  config.attention_bias = fields.boolean("attention_bias", false);
  config.bos_token_id = fields.integer("bos_token_id", -1);
  config.eos_token_ids = read_eos(fields);
  config.pad_token_id = fields.integer("pad_token_id", -1);
  config.dtype = fields.string("dtype", fields.string("torch_dtype", "float32"));
  config.original_json = std::string(text);
  validate_config(config, where);
  return config;
}

ModelConfig config_from_gguf(const GgufFile& file) {
  refuse_unsupported(file);
  ModelConfig config;
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end() || embedding->second.shape.size() != 2) fail("{}: tensor token_embd.weight is missing", file.where());
  config.vocab_size = embedding->second.shape[0];
  if (const auto stated = file.integer(llama("vocab_size")); stated && *stated != config.vocab_size)
    fail("{}: {} is {}, but token_embd.weight has {} rows", file.where(), llama("vocab_size"), *stated, config.vocab_size);
  config.hidden_size = required(file, "embedding_length");
  config.intermediate_size = required(file, "feed_forward_length");
  config.num_hidden_layers = required(file, "block_count");
  config.num_attention_heads = required(file, "attention.head_count");
  config.num_key_value_heads = file.integer(llama("attention.head_count_kv")).value_or(config.num_attention_heads);
  config.max_position_embeddings = required(file, "context_length");
  if (config.num_attention_heads < 1)
    fail("{}: {} is {}; it must be at least 1", file.where(), llama("attention.head_count"), config.num_attention_heads);
  config.head_dim = file.integer(llama("attention.key_length")).value_or(config.hidden_size / config.num_attention_heads);
  for (const char* name : {"attention.value_length", "rope.dimension_count"})
    if (const int64_t found = file.integer(llama(name)).value_or(config.head_dim); found != config.head_dim)
      fail("{}: {} is {} but the head dimension is {}; only equal ones are supported", file.where(), llama(name), found, config.head_dim);
  const auto eps = file.number(llama("attention.layer_norm_rms_epsilon"));
  if (!eps) fail("{}: metadata {} is missing", file.where(), llama("attention.layer_norm_rms_epsilon"));
  config.rms_norm_eps = *eps;
  config.rope_theta = file.number(llama("rope.freq_base")).value_or(10000.0);
  config.tie_word_embeddings = !file.tensors().count("output.weight");
  config.attention_bias = file.tensors().count("blk.0.attn_q.bias") != 0;
  config.bos_token_id = file.integer("tokenizer.ggml.bos_token_id").value_or(-1);
  config.pad_token_id = file.integer("tokenizer.ggml.padding_token_id").value_or(-1);
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
    if (const auto id = file.integer(key);
        id && std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(), *id) == config.eos_token_ids.end())
      config.eos_token_ids.push_back(*id);
  config.dtype = gguf_dtype(file);
  validate_config(config, file.where());
  return config;
}

}  // namespace hone::model
