#include "hone/model/source.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "file_builders.h"
#include "hone/model/safetensors.h"
#include "hone/text/gguf_vocabulary.h"

namespace hone::model {
namespace source_test {

namespace fs = std::filesystem;

std::vector<float> load(const ModelSource& source, const TensorSpec& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()), std::nanf(""));
  source.load(tensor.name, values.data());
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// A copy of a fixture folder that a test may break.
fs::path copy_of(const char* name, const ScratchFolder& scratch) {
  const fs::path folder = scratch.path / name;
  fs::remove_all(folder);
  fs::copy(fixture(name), folder);
  return folder;
}

void edit_config(const fs::path& folder, const std::string& key, const nlohmann::json& value) {
  auto json = nlohmann::json::parse(read_file(folder / "config.json"));
  json[key] = value;
  write_file(folder / "config.json", json.dump());
}

using Tensors = std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>>;

Tensors all_tensors(const fs::path& file) {
  Tensors tensors;
  const SafetensorsFile opened(file);
  for (const auto& [name, view] : opened.tensors()) {
    std::vector<float> values(static_cast<size_t>(view.elements()));
    to_float32(view, values.data());
    tensors[name] = {view.shape, values};
  }
  return tensors;
}

void write_tensors(const fs::path& file, const Tensors& tensors) {
  std::vector<TensorProducer> producers;
  for (const auto& [name, tensor] : tensors) {
    const auto& [shape, values] = tensor;
    const int64_t width = values.empty() ? 0 : static_cast<int64_t>(values.size()) / shape[0];
    producers.push_back({name, shape, [&values, width](int64_t begin, int64_t end, float* out) {
                           std::copy(values.begin() + begin * width, values.begin() + end * width, out);
                         }});
  }
  write_safetensors(file, producers, DType::f32);
}

// The two fixtures hold the same values, one as a llama GGUF file (rows of q and k interleaved), one in the order of transformers.
TEST(ModelSource, GgufAndFolderGiveTheSameTensors) {
  const auto gguf = open_model(fixture("llama.gguf").string()), folder = open_model(fixture("llama_q8").string());
  ASSERT_EQ(gguf->tensors().size(), folder->tensors().size());
  for (const TensorSpec& tensor : folder->tensors()) {
    const auto from_gguf = load(*gguf, tensor), from_folder = load(*folder, tensor);
    EXPECT_TRUE(same_bits(from_gguf, from_folder)) << tensor.name;
    const int64_t rows = tensor.shape[0], width = tensor.elements() / rows, begin = rows / 3, end = rows - 1;
    std::vector<float> part(static_cast<size_t>((end - begin) * width));
    gguf->load_rows(tensor.name, begin, end, part.data());
    EXPECT_TRUE(same_bits(part, {from_folder.begin() + begin * width, from_folder.begin() + end * width})) << tensor.name;
  }
}

TEST(ModelSource, Bfloat16FolderOfTransformersIsRead) {
  const auto source = open_model(fixture("llama").string());
  EXPECT_EQ(source->tensors().size(), 1u + 2 * 13 + 2);
  double sum = 0;
  for (const TensorSpec& tensor : source->tensors())
    for (const float value : load(*source, tensor)) sum += std::abs(value);
  EXPECT_TRUE(std::isfinite(sum) && sum > 0);
  EXPECT_EQ(source->tokenizer(), nullptr);
  EXPECT_THROW(source->load("lm_head.bias", nullptr), ProgrammerError);
}

TEST(ModelSource, TheHashFollowsEveryByteOfTheWeights) {
  ScratchFolder scratch;
  const fs::path folder = copy_of("llama", scratch);
  const std::string before = open_model(folder.string())->content_hash();
  EXPECT_EQ(before, open_model(fixture("llama").string())->content_hash());
  std::string bytes = read_file(folder / "model.safetensors");
  bytes[bytes.size() - 20000] ^= 1;
  write_file(folder / "model.safetensors", bytes);
  EXPECT_NE(open_model(folder.string())->content_hash(), before);
  EXPECT_EQ(before.size(), 32u);
}

TEST(ModelSource, ShardsAreOneModel) {
  ScratchFolder scratch;
  const fs::path folder = copy_of("llama_q8", scratch);
  const Tensors tensors = all_tensors(folder / "model.safetensors");
  fs::remove(folder / "model.safetensors");
  std::map<std::string, Tensors> files;
  nlohmann::json index;
  for (const auto& [name, tensor] : tensors) {
    const std::string file =
        files["model-00001-of-00002.safetensors"].size() < 10 ? "model-00001-of-00002.safetensors" : "model-00002-of-00002.safetensors";
    files[file][name] = tensor;
    index["weight_map"][name] = file;
  }
  for (const auto& [file, part] : files) write_tensors(folder / file, part);
  const auto whole = open_model(fixture("llama_q8").string());
  const auto check_same = [&] {
    const auto sharded = open_model(folder.string());
    for (const TensorSpec& tensor : whole->tensors()) EXPECT_TRUE(same_bits(load(*sharded, tensor), load(*whole, tensor))) << tensor.name;
  };
  check_same();  // by the files' names
  write_file(folder / "model.safetensors.index.json", index.dump());
  check_same();  // by the index
  index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors";
  write_file(folder / "model.safetensors.index.json", index.dump());
  expect_refused([&] { open_model(folder.string()); }, {"the index places tensor model.norm.weight"}, "index of another file");
  fs::remove(folder / "model.safetensors.index.json");
  files["model-00001-of-00002.safetensors"]["model.norm.weight"] = tensors.at("model.norm.weight");
  write_tensors(folder / "model-00001-of-00002.safetensors", files["model-00001-of-00002.safetensors"]);
  expect_refused([&] { open_model(folder.string()); }, {"model.norm.weight stands in two files"}, "twice");
}

TEST(ModelSource, TensorsThatDoNotFitTheConfigurationAreNamed) {
  ScratchFolder scratch;
  const fs::path folder = copy_of("llama_q8", scratch);
  const fs::path file = folder / "model.safetensors";
  const Tensors good = all_tensors(file);
  const auto expect = [&](Tensors tensors, const std::vector<std::string>& parts, const std::string& what) {
    write_tensors(file, tensors);
    expect_refused([&] { open_model(folder.string()); }, parts, what);
  };
  Tensors tensors = good;
  tensors.erase("model.layers.1.mlp.up_proj.weight");
  expect(tensors, {"1 missing: model.layers.1.mlp.up_proj.weight"}, "missing");
  tensors = good;
  tensors["model.layers.0.self_attn.q_norm.weight"] = {{32}, std::vector<float>(32)};
  expect(tensors, {"1 unexpected: model.layers.0.self_attn.q_norm.weight"}, "unexpected");
  tensors = good;
  tensors["model.norm.weight"] = {{16}, std::vector<float>(16)};
  expect(tensors, {"model.norm.weight is [16], wanted [32]"}, "shape");
  tensors = good;
  tensors.erase("lm_head.weight");
  expect(tensors, {"1 missing: lm_head.weight"}, "head of an untied model");
  tensors = good;
  for (int layer = 0; layer < 2; ++layer)
    tensors[fmt::format("model.layers.{}.self_attn.rotary_emb.inv_freq", layer)] = {{16}, std::vector<float>(16)};
  write_tensors(file, tensors);
  EXPECT_NO_THROW(open_model(folder.string())) << "buffers of older transformers";

  write_tensors(file, good);
  edit_config(folder, "attention_bias", false);
  expect_refused([&] { open_model(folder.string()); }, {"8 unexpected: model.layers.0.self_attn.k_proj.bias"},
                 "biases that the configuration denies");
}

TEST(ModelSource, ATiedHeadIsAbsentOrEqual) {
  ScratchFolder scratch;
  const fs::path folder = copy_of("llama_q8", scratch);
  edit_config(folder, "tie_word_embeddings", true);
  expect_refused([&] { open_model(folder.string()); }, {"lm_head.weight differs", "tie_word_embeddings"}, "different");
  Tensors tensors = all_tensors(folder / "model.safetensors");
  tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"];
  write_tensors(folder / "model.safetensors", tensors);
  const auto source = open_model(folder.string());
  for (const TensorSpec& tensor : source->tensors()) EXPECT_NE(tensor.name, "lm_head.weight");
  tensors.erase("lm_head.weight");
  write_tensors(folder / "model.safetensors", tensors);
  EXPECT_EQ(open_model(folder.string())->tensors().size(), source->tensors().size());
}

TEST(ModelSource, PathsThatAreNoModelSayWhatToDo) {
  ScratchFolder scratch;
  expect_refused([] { open_model(""); }, {"no model"}, "empty");
  expect_refused([] { open_model("./nowhere"); }, {"./nowhere: no such file or folder"}, "path");
  expect_refused([] { open_model("nowhere.gguf"); }, {"no such file or folder"}, "gguf");
  expect_refused([&] { open_model(scratch.path.string()); }, {"no config.json"}, "empty folder");
  write_file(scratch.path / "x.gguf", "GGUF");
  expect_refused([&] { open_model(scratch.path.string()); }, {"Name the file itself", "x.gguf"}, "folder with a gguf");
  write_file(scratch.path / "adapter_config.json", "{}");
  expect_refused([&] { open_model(scratch.path.string()); }, {"--adapter"}, "adapter");
  expect_refused([] { open_model(fixture("llama/model.safetensors").string()); }, {"name the folder"}, "one file");
  expect_refused([] { open_model(fixture("llama/config.json").string()); }, {"not a GGUF file"}, "another file");
  expect_refused([] { open_tokenizer_source(fixture("llama").string()); }, {"no tokenizer.json"}, "no tokenizer");
}

/// Sets an environment variable for a test.
struct Environment {
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() { old_.empty() ? ::unsetenv(name_) : ::setenv(name_, old_.c_str(), 1); }
  const char* name_;
  std::string old_;
};

TEST(ModelSource, HubIdsAreFoundInTheCache) {
  ScratchFolder scratch;
  const Environment home("HF_HUB_CACHE", scratch.path.string());
  expect_refused([] { open_model("org/some-model"); }, {"hf download org/some-model", "org/some-model: no such folder"}, "not there");
  expect_refused([] { open_model("org/some-model@v2"); }, {"hf download org/some-model --revision v2"}, "revision");
  expect_refused([] { open_model("../some-model"); }, {"no such file or folder"}, "no id");
  const fs::path model = scratch.path / "models--org--some-model";
  fs::create_directories(model / "snapshots");
  fs::create_directories(model / "refs");
  fs::copy(fixture("llama"), model / "snapshots" / "abc123");
  write_file(model / "refs" / "main", "abc123");
  EXPECT_EQ(open_model("org/some-model")->path(), model / "snapshots" / "abc123");
  EXPECT_EQ(open_model("org/some-model@abc123")->path(), model / "snapshots" / "abc123");
  write_file(model / "refs" / "main", "../../../elsewhere");
  expect_refused([] { open_model("org/some-model"); }, {"no commit name"}, "hostile ref");
}

TEST(TokenizerSource, FoldersAndTheirTemplates) {
  ScratchFolder scratch;
  const fs::path& folder = scratch.path;
  write_file(folder / "tokenizer.json", "{}");
  EXPECT_EQ(open_tokenizer_source(folder.string()).chat_template, "");
  write_file(folder / "tokenizer_config.json", R"({"eos_token":{"content":"<end>"},"bos_token":"<begin>","pad_token":null,"chat_template":"one"})");
  write_file(folder / "special_tokens_map.json", R"({"pad_token":"<pad>","bos_token":"other"})");
  TokenizerSource source = open_tokenizer_source(folder.string());
  EXPECT_EQ(source.tokenizer_json, folder / "tokenizer.json");
  EXPECT_EQ(source.gguf, nullptr);
  EXPECT_EQ(source.eos_token, "<end>");
  EXPECT_EQ(source.bos_token, "<begin>");
  EXPECT_EQ(source.pad_token, "<pad>");
  EXPECT_EQ(source.chat_template, "one");
  const std::string hash = source.content_hash;
  write_file(folder / "tokenizer_config.json", R"({"chat_template":[{"name":"tool_use","template":"two"},{"name":"default","template":"three"}]})");
  EXPECT_EQ(open_tokenizer_source(folder.string()).chat_template, "three");
  EXPECT_NE(open_tokenizer_source(folder.string()).content_hash, hash);
  write_file(folder / "chat_template.jinja", "four");
  EXPECT_EQ(open_tokenizer_source(folder.string()).chat_template, "four");
  write_file(folder / "tokenizer_config.json", R"({"chat_template":[{"name":"default"}]})");
  fs::remove(folder / "chat_template.jinja");
  expect_refused([&] { open_tokenizer_source(folder.string()); }, {"tokenizer_config.json", "chat_template"}, "template list");
  write_file(folder / "tokenizer_config.json", R"({"eos_token":5})");
  expect_refused([&] { open_tokenizer_source(folder.string()); }, {"eos_token is 5"}, "token of a wrong type");
}

TEST(TokenizerSource, GgufMetadata) {
  const TokenizerSource source = open_tokenizer_source(fixture("llama.gguf").string());
  ASSERT_NE(source.gguf, nullptr);
  EXPECT_EQ(source.gguf->pre, "smollm");
  EXPECT_EQ(source.gguf->tokens.size(), 32u);
  EXPECT_EQ(source.gguf->token_types[4], 1);
  EXPECT_EQ(source.gguf->merges, (std::vector<std::string>{"a b", "c d"}));
  EXPECT_EQ(source.bos_token, "t1");
  EXPECT_EQ(source.eos_token, "t2");
  EXPECT_EQ(source.pad_token, "t0");
  EXPECT_EQ(source.unk_token, "");
  EXPECT_EQ(source.chat_template, "{{ messages }}");
}

TEST(ModelSource, TheDefaultModel) {
  const char* named = std::getenv("HONE_MODEL");
  const fs::path path = named != nullptr ? fs::path(named) : fs::path(HONE_SOURCE_DIR) / "models/SmolLM2-135M-Instruct.gguf";
  if (!fs::exists(path)) GTEST_SKIP() << "the default model is not there (make model fetches it): " << path;
  const auto source = open_model(path.string());
  const ModelConfig& config = source->config();
  EXPECT_EQ(config.vocab_size, 49152);
  EXPECT_EQ(config.hidden_size, 576);
  EXPECT_EQ(config.intermediate_size, 1536);
  EXPECT_EQ(config.num_hidden_layers, 30);
  EXPECT_EQ(config.num_attention_heads, 9);
  EXPECT_EQ(config.num_key_value_heads, 3);
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 100000.0);
  EXPECT_EQ(config.max_position_embeddings, 8192);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int64_t>{2}));
  ASSERT_NE(source->tokenizer(), nullptr);
  EXPECT_EQ(source->tokenizer()->eos_token, "<|im_end|>");
  EXPECT_EQ(source->tokenizer()->gguf->tokens.size(), 49152u);
  EXPECT_EQ(source->tokenizer()->chat_template.substr(0, 10), "{% for mes");
  // Values that gguf-py gives: the embedding's mean square (Q8_0), and of one column of a query matrix (Q4_1) the rows 64 and 65 of the file,
  // which pair up for rotation: rows 64 and 96 in the half-split order.
  std::vector<float> embedding(49152 * 576), query(576 * 576);
  source->load("model.embed_tokens.weight", embedding.data());
  double squares = 0;
  for (const float value : embedding) squares += static_cast<double>(value) * value;
  EXPECT_NEAR(squares / static_cast<double>(embedding.size()), 0.018381744506540648, 1e-10);  // 28 million terms in another order
  source->load("model.layers.7.self_attn.q_proj.weight", query.data());
  EXPECT_EQ(query[64 * 576 + 5], -0x1.76cp-4f);
  EXPECT_EQ(query[96 * 576 + 5], -0x1.73p-6f);
}

}  // namespace source_test
}  // namespace hone::model
