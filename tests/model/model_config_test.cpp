#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "file_builders.h"
#include "hone/model/config.h"
#include "hone/model/gguf.h"

namespace hone::model {
namespace {

using nlohmann::json;

json good_config() {
  return json::parse(R"({"model_type":"llama","architectures":["LlamaForCausalLM"],"vocab_size":100,"hidden_size":64,"intermediate_size":96,
    "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,"hidden_act":"silu","rope_theta":5000.0,
    "max_position_embeddings":256,"bos_token_id":1,"eos_token_id":2,"torch_dtype":"bfloat16"})");
}

ModelConfig parse(const json& object) { return parse_config_json(object.dump(), "config.json"); }

TEST(ModelConfig, Transformers4IsRead) {
  const ModelConfig config = parse(good_config());
  EXPECT_EQ(config.vocab_size, 100);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rope_theta, 5000.0);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.dtype, "bfloat16");
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{2}));
  EXPECT_EQ(config.pad_token_id, -1);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
}

TEST(ModelConfig, Transformers5IsRead) {
  const ModelConfig config = parse_config_json(read_file(fixture("llama/config.json")), "config.json");
  EXPECT_EQ(config.head_dim, 32);
  EXPECT_EQ(config.rope_theta, 12345.0);
  EXPECT_EQ(config.dtype, "bfloat16");
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(config.pad_token_id, 0);
  EXPECT_TRUE(config.attention_bias);
}

TEST(ModelConfig, DefaultsAreThoseOfTransformers) {
  json object = good_config();
  for (const char* key : {"num_key_value_heads", "rms_norm_eps", "hidden_act", "rope_theta", "max_position_embeddings", "architectures"})
    object.erase(key);
  object["head_dim"] = nullptr;
  object["rope_scaling"] = {{"type", "default"}};
  object["sliding_window"] = nullptr;
  const ModelConfig config = parse(object);
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.max_position_embeddings, 2048);
}

struct Refused {
  const char* patch;  // merged into the good configuration
  std::vector<std::string> message;
};

TEST(ModelConfig, WhatIsNotSupportedIsRefusedByName) {
  const std::vector<Refused> table{
      {R"({"model_type":"gpt2"})", {"model_type gpt2 is not supported", "llama"}},
      {R"({"model_type":"mistral"})", {"mistral"}},
      {R"({"model_type":null})", {"(none)"}},
      {R"({"architectures":["LlamaForTokenClassification"]})", {"LlamaForTokenClassification", "LlamaForCausalLM", "LlamaForSequenceClassification"}},
      {R"({"architectures":["LlamaForSequenceClassification"]})", {"LlamaForSequenceClassification with 2 labels", "one label"}},
      {R"({"architectures":["LlamaForSequenceClassification"],"num_labels":3})", {"with 3 labels"}},
      {R"({"architectures":["LlamaForSequenceClassification"],"num_labels":1,"id2label":{"0":"a","1":"b"}})", {"with 2 labels"}},
      {R"({"architectures":["LlamaForSequenceClassification"],"id2label":["a"]})", {"id2label is array"}},
      {R"({"architectures":["LlamaForCausalLM"],"initializer_range":-1})", {"initializer_range is -1"}},
      {R"({"hidden_act":"gelu"})", {"hidden_act gelu", "silu"}},
      {R"({"mlp_bias":true})", {"mlp_bias"}},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":8.0}})", {"rope_type llama3", "default"}},
      {R"({"rope_scaling":{"type":"linear","factor":2.0}})", {"rope_type linear"}},
      {R"({"rope_parameters":{"rope_type":"yarn","rope_theta":5000.0}})", {"rope_type yarn"}},
      {R"({"rope_parameters":{"rope_type":"default","rope_theta":6000.0}})", {"6000", "5000"}},
      {R"({"rope_parameters":{"full_attention":{"rope_type":"default"}}})", {"full_attention"}},
      {R"({"rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5}})", {"partial_rotary_factor"}},
      {R"({"rope_parameters":[1]})", {"rope_parameters", "object"}},
      {R"({"partial_rotary_factor":0.5})", {"partial_rotary_factor"}},
      {R"({"rope_interleaved":true})", {"rope_interleaved"}},
      {R"({"sliding_window":4096})", {"sliding_window 4096"}},
      {R"({"layer_types":["full_attention","sliding_attention"]})", {"sliding_attention"}},
      {R"({"quantization_config":{"quant_method":"gptq"}})", {"quantization_config", "gptq"}},
      {R"({"quantization_config":3})", {"quantization_config"}},
      {R"({"pretraining_tp":2})", {"pretraining_tp 2"}},
      {R"({"num_local_experts":8})", {"num_local_experts", "mixture of experts"}},
      {R"({"attention_dropout":0.1})", {"attention_dropout 0.1"}},
      {R"({"auto_map":{"AutoModel":"x.py"}})", {"auto_map"}},
      {R"({"final_logit_softcapping":30.0})", {"final_logit_softcapping"}},
      {R"({"vocab_size":0})", {"vocab_size is 0"}},
      {R"({"vocab_size":-5})", {"vocab_size is -5"}},
      {R"({"vocab_size":1e18})", {"vocab_size", "whole number"}},
      {R"({"vocab_size":9223372036854775807})", {"vocab_size", "between 1 and"}},
      {R"({"vocab_size":18446744073709551615})", {"vocab_size", "whole number"}},
      {R"({"vocab_size":"100"})", {"vocab_size", "whole number"}},
      {R"({"vocab_size":null})", {"vocab_size is missing"}},
      {R"({"hidden_size":9223372036854775807,"head_dim":16})", {"hidden_size"}},
      {R"({"hidden_size":66})", {"hidden_size (66)", "num_attention_heads (4)"}},
      {R"({"num_hidden_layers":100000})", {"num_hidden_layers is 100000"}},
      {R"({"num_attention_heads":0})", {"num_attention_heads is 0"}},
      {R"({"num_attention_heads":4611686018427387904,"head_dim":16})", {"num_attention_heads"}},
      {R"({"num_key_value_heads":3})", {"num_attention_heads (4)", "num_key_value_heads (3)"}},
      {R"({"num_key_value_heads":0})", {"num_key_value_heads is 0"}},
      {R"({"num_key_value_heads":8})", {"no multiple"}},
      {R"({"head_dim":15})", {"head_dim is 15", "even"}},
      {R"({"head_dim":-16})", {"head_dim is -16"}},
      {R"({"rms_norm_eps":0})", {"rms_norm_eps is 0"}},
      {R"({"rms_norm_eps":"1e-5"})", {"rms_norm_eps", "number"}},
      {R"({"rope_theta":0})", {"rope_theta is 0"}},
      {R"({"rope_theta":-1.0})", {"rope_theta is -1"}},
      {R"({"eos_token_id":100})", {"eos_token_id is 100", "0 to 99"}},
      {R"({"eos_token_id":[2,"x"]})", {"eos_token_id"}},
      {R"({"bos_token_id":-7})", {"bos_token_id is -7"}},
      {R"({"tie_word_embeddings":1})", {"tie_word_embeddings", "true or false"}},
  };
  for (const Refused& refused : table) {
    json object = good_config();
    const json patch = json::parse(refused.patch);
    for (const auto& [key, value] : patch.items()) object[key] = value;
    auto parts = refused.message;
    parts.push_back("config.json");
    expect_refused([&] { parse(object); }, parts, refused.patch);
  }
  expect_refused([] { parse_config_json("[1]", "config.json"); }, {"config.json", "object"}, "array");
  expect_refused([] { parse_config_json("{\"a\":" + std::string(200000, '['), "config.json"); }, {"nested"}, "deep");
}

TEST(ModelConfig, SavedConfigurationsReadBackAndCarryBothForms) {
  json object = good_config();
  object["some_key_of_another_tool"] = {{"kept", true}};
  object["_name_or_path"] = "/home/somebody";
  ModelConfig config = parse(object);
  config.eos_token_ids = {2, 7};
  config.rms_norm_eps = 9.999999747378752e-06;
  const std::string text = config_to_json(config, "float32");
  const json saved = json::parse(text);
  EXPECT_EQ(saved["rope_theta"], 5000.0);
  EXPECT_TRUE(saved["rope_scaling"].is_null());
  EXPECT_EQ(saved["rope_parameters"], json::parse(R"({"rope_theta":5000.0,"rope_type":"default"})"));
  EXPECT_EQ(saved["torch_dtype"], "float32");
  EXPECT_EQ(saved["dtype"], "float32");
  EXPECT_EQ(saved["architectures"], json::parse(R"(["LlamaForCausalLM"])"));
  EXPECT_EQ(saved["some_key_of_another_tool"]["kept"], true);
  EXPECT_FALSE(saved.contains("_name_or_path"));
  const ModelConfig again = parse_config_json(text, "saved");
  EXPECT_EQ(again.eos_token_ids, config.eos_token_ids);
  EXPECT_EQ(again.rms_norm_eps, config.rms_norm_eps);
  EXPECT_EQ(again.head_dim, 16);
  EXPECT_EQ(again.pad_token_id, -1);
}

TEST(ModelConfig, ExpectedTensorsFollowTheConfiguration) {
  json object = good_config();
  object["attention_bias"] = true;
  object["head_dim"] = 32;
  const auto tensors = expected_tensors(parse(object));
  const auto shape = [&](const std::string& name) {
    for (const TensorSpec& tensor : tensors)
      if (tensor.name == name) return tensor.shape;
    return std::vector<int64_t>{};
  };
  EXPECT_EQ(tensors.size(), 1u + 2 * 13 + 2);
  EXPECT_EQ(shape("model.layers.1.self_attn.q_proj.weight"), (std::vector<int64_t>{128, 64}));
  EXPECT_EQ(shape("model.layers.1.self_attn.k_proj.bias"), (std::vector<int64_t>{64}));
  EXPECT_EQ(shape("model.layers.0.self_attn.o_proj.weight"), (std::vector<int64_t>{64, 128}));
  EXPECT_EQ(shape("model.layers.0.self_attn.o_proj.bias"), (std::vector<int64_t>{64}));
  EXPECT_EQ(shape("model.layers.0.mlp.down_proj.weight"), (std::vector<int64_t>{64, 96}));
  EXPECT_EQ(shape("lm_head.weight"), (std::vector<int64_t>{100, 64}));
}

TEST(ModelConfig, GgufMetadataIsRead) {
  const ModelConfig config = config_from_gguf(GgufFile(fixture("llama.gguf")));
  const ModelConfig wanted = parse_config_json(read_file(fixture("llama_q8/config.json")), "config.json");
  EXPECT_EQ(config.vocab_size, wanted.vocab_size);
  EXPECT_EQ(config.hidden_size, wanted.hidden_size);
  EXPECT_EQ(config.intermediate_size, wanted.intermediate_size);
  EXPECT_EQ(config.num_hidden_layers, wanted.num_hidden_layers);
  EXPECT_EQ(config.num_attention_heads, wanted.num_attention_heads);
  EXPECT_EQ(config.num_key_value_heads, wanted.num_key_value_heads);
  EXPECT_EQ(config.head_dim, wanted.head_dim);
  EXPECT_EQ(config.rms_norm_eps, wanted.rms_norm_eps);
  EXPECT_EQ(config.rope_theta, wanted.rope_theta);
  EXPECT_EQ(config.max_position_embeddings, wanted.max_position_embeddings);
  EXPECT_EQ(config.tie_word_embeddings, wanted.tie_word_embeddings);
  EXPECT_EQ(config.attention_bias, wanted.attention_bias);
  EXPECT_EQ(config.bos_token_id, wanted.bos_token_id);
  EXPECT_EQ(config.eos_token_ids, wanted.eos_token_ids);
  EXPECT_EQ(config.pad_token_id, wanted.pad_token_id);
  EXPECT_EQ(config.dtype, "mixed");
}

TEST(ModelConfig, ARewardModelIsASequenceClassifierWithOneLabel) {
  for (const char* labels : {R"({"num_labels":1})", R"({"id2label":{"0":"LABEL_0"}})"}) {
    json object = good_config();
    object["architectures"] = {"LlamaForSequenceClassification"};
    object["problem_type"] = "regression";
    object["num_labels"] = nullptr;
    object.merge_patch(json::parse(labels));
    const ModelConfig config = parse(object);
    EXPECT_TRUE(config.reward_model);
    const auto tensors = expected_tensors(config);
    EXPECT_EQ(tensors.back().name, "score.weight");
    EXPECT_EQ(tensors.back().shape, (std::vector<int64_t>{1, 64}));
    EXPECT_TRUE(std::none_of(tensors.begin(), tensors.end(), [](const TensorSpec& t) { return t.name == "lm_head.weight"; }));
    const json saved = json::parse(config_to_json(config, "float32"));
    EXPECT_EQ(saved["architectures"], json::parse(R"(["LlamaForSequenceClassification"])"));
    EXPECT_EQ(saved["id2label"], json::parse(R"({"0":"LABEL_0"})"));
    EXPECT_EQ(saved["label2id"], json::parse(R"({"LABEL_0":0})"));
    EXPECT_FALSE(saved.contains("problem_type"));
    EXPECT_TRUE(parse(saved).reward_model);
  }
  const ModelConfig language = parse(good_config()), reward = as_reward_model(language);
  EXPECT_FALSE(language.reward_model);
  EXPECT_EQ(expected_tensors(language).back().name, "lm_head.weight");
  EXPECT_EQ(json::parse(config_to_json(reward, "float32"))["architectures"][0], "LlamaForSequenceClassification");
}

TEST(ModelConfig, GgufMetadataThatIsNotSupportedIsRefusedByName) {
  ScratchFolder scratch;
  const auto path = scratch.path / "x.gguf";
  const auto with = [&](const std::string& architecture, const std::string& keys, uint64_t count) {
    const std::string all = gguf_string("general.architecture") + raw(uint32_t{8}) + gguf_string(architecture) +
                            gguf_u32("llama.embedding_length", 32) + gguf_u32("llama.feed_forward_length", 64) + gguf_u32("llama.block_count", 1) +
                            gguf_u32("llama.attention.head_count", 2) + gguf_u32("llama.context_length", 64) +
                            gguf_string("llama.attention.layer_norm_rms_epsilon") + raw(uint32_t{6}) + raw(1e-5f);
    write_file(path, pad_to(gguf_header(1, 7 + count) + all + keys + gguf_tensor("token_embd.weight", {32, 8}, 0, 0), 32) + std::string(1024, '\0'));
    return [&] { config_from_gguf(GgufFile(path)); };
  };
  const auto text = [](const std::string& key, const std::string& value) { return gguf_string(key) + raw(uint32_t{8}) + gguf_string(value); };
  EXPECT_NO_THROW(with("llama", "", 0)());
  EXPECT_NO_THROW(with("llama", text("llama.rope.scaling.type", "none"), 1)());
  expect_refused(with("qwen2", "", 0), {"architecture qwen2", "llama"}, "architecture");
  expect_refused(with("llama", text("llama.rope.scaling.type", "yarn"), 1), {"llama.rope.scaling.type yarn"}, "rope type");
  expect_refused(with("llama", gguf_u32("llama.attention.sliding_window", 4096), 1), {"llama.attention.sliding_window"}, "sliding window");
  expect_refused(with("llama", gguf_u32("llama.expert_count", 8), 1), {"llama.expert_count", "experts"}, "experts");
  expect_refused(with("llama", gguf_u32("llama.embedding_scale", 8), 1), {"llama.embedding_scale"}, "unknown key");
  expect_refused(with("llama", gguf_u32("llama.rope.dimension_count", 8), 1), {"rope.dimension_count is 8", "16"}, "partial rotation");
  expect_refused(with("llama", gguf_u32("llama.vocab_size", 9), 1), {"vocab_size is 9", "8 rows"}, "vocabulary");
  expect_refused(with("llama", gguf_u32("llama.attention.head_count_kv", 3), 1), {"num_key_value_heads (3)"}, "kv heads");
  expect_refused(with("llama", text("llama.attention.head_count_kv", "x"), 1), {"head_count_kv is string"}, "type");
}

}  // namespace
}  // namespace hone::model
