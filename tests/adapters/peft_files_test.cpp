// Adapter directories made by hand: what PEFT writes is read, what hone writes is read back, everything else is refused by name.
// Directories that PEFT itself wrote are in golden/peft_test.cpp.
#include "hone/adapters/peft_files.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "model/file_builders.h"

namespace hone::adapters {
namespace peft_files_test {

namespace fs = std::filesystem;
using model::expect_refused;
using model::read_file;
using model::ScratchFolder;
using model::write_file;
using Shapes = std::map<std::string, std::vector<int64_t>>;

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
constexpr const char* kV = "model.layers.1.self_attn.v_proj";

/// What PEFT 0.21 writes for LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]), with options of every kind switched off.
nlohmann::ordered_json peft_config() {
  return nlohmann::ordered_json::parse(R"({
    "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null, "base_model_name_or_path": "some/base",
    "bias": "none", "corda_config": null, "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false,
    "inference_mode": true, "init_lora_weights": true, "kasa_config": null, "layer_replication": null, "layers_pattern": null,
    "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false, "lora_dropout": 0.0, "lora_ga_config": null,
    "megatron_config": null, "megatron_core": "megatron.core", "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA",
    "peft_version": "0.21.2", "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": null, "target_modules": ["v_proj", "q_proj"],
    "target_parameters": null, "task_type": "CAUSAL_LM", "trainable_token_indices": null, "use_bdlora": null, "use_dora": false,
    "use_qalora": false, "use_rslora": false, "velora_config": null})");
}

Shapes two_modules() {
  Shapes shapes;
  for (const char* module : {kQ, kV}) {
    shapes[std::string("base_model.model.") + module + ".lora_A.weight"] = {4, 6};
    shapes[std::string("base_model.model.") + module + ".lora_B.weight"] = {5, 4};
  }
  return shapes;
}

std::vector<model::TensorProducer> producers(const Shapes& shapes) {
  std::vector<model::TensorProducer> tensors;
  for (const auto& [name, shape] : shapes) {
    const int64_t width = shape.size() == 2 ? shape[1] : 1;
    const auto first = static_cast<float>(name.size());
    tensors.push_back({name, shape, [width, first](int64_t begin, int64_t end, float* out) {
                         for (int64_t i = begin * width; i < end * width; ++i) *out++ = first + static_cast<float>(i);
                       }});
  }
  return tensors;
}

struct AdapterFolder : ScratchFolder {
  fs::path folder = path / "adapter";
  nlohmann::ordered_json config = peft_config();
  Shapes shapes = two_modules();

  PeftAdapter read() {
    fs::create_directories(folder);
    write_file(folder / "adapter_config.json", config.dump());
    model::write_safetensors(folder / "adapter_model.safetensors", producers(shapes), model::DType::f32);
    return read_peft(folder);
  }
  void expect(const std::vector<std::string>& parts, const std::string& what) {
    expect_refused([&] { read(); }, parts, what);
  }
  void rename(const std::string& from, const std::string& to) {
    auto node = shapes.extract(from);
    node.key() = to;
    shapes.insert(std::move(node));
  }
};

std::vector<float> values(const model::TensorView& view) {
  std::vector<float> out(static_cast<size_t>(view.elements()));
  model::to_float32(view, out.data());
  return out;
}

TEST(ReadPeft, ReadsWhatPeftWrites) {
  AdapterFolder files;
  const PeftAdapter adapter = files.read();
  EXPECT_EQ(adapter.config.r, 4);
  EXPECT_EQ(adapter.config.lora_alpha, 8);
  EXPECT_EQ(adapter.config.target_modules, (std::vector<std::string>{"v_proj", "q_proj"}));
  EXPECT_EQ(adapter.config.base_model_name_or_path, "some/base");
  EXPECT_EQ(adapter.base_hash, "");
  ASSERT_EQ(adapter.tensors.size(), 4u);
  ASSERT_EQ(adapter.ranks.size(), 2u);
  EXPECT_EQ(adapter.ranks.at(kQ).r, 4);
  const auto& a = adapter.tensors.at(std::string(kQ) + ".lora_A.weight");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{4, 6}));
  EXPECT_EQ(values(a)[7] - values(a)[0], 7.0f);
}

TEST(ReadPeft, KeysOfALiveModelAreRead) {
  AdapterFolder files;
  files.config["use_dora"] = true;
  files.config["modules_to_save"] = {"lm_head"};
  const std::string q = std::string("base_model.model.") + kQ, v = std::string("base_model.model.") + kV;
  files.rename(q + ".lora_A.weight", q + ".lora_A.default.weight");
  files.rename(q + ".lora_B.weight", q + ".lora_B.default.weight");
  files.shapes[q + ".lora_magnitude_vector.default.weight"] = {5};
  files.shapes[v + ".lora_magnitude_vector"] = {5};
  files.shapes["base_model.model.lm_head.modules_to_save.default.weight"] = {7, 6};
  const PeftAdapter adapter = files.read();
  for (const char* name : {".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"})
    EXPECT_TRUE(adapter.tensors.count(std::string(kQ) + name) && adapter.tensors.count(std::string(kV) + name)) << name;
  EXPECT_TRUE(adapter.tensors.count("lm_head.weight"));
  EXPECT_EQ(adapter.tensors.size(), 7u);
  files.shapes[q + ".lora_A.weight"] = {4, 6};
  files.expect({"two keys", kQ}, "a tensor twice");
}

TEST(ReadPeft, RanksAndAlphasByPattern) {
  AdapterFolder files;
  // The first pattern in the file's order counts; a pattern is a regular expression for the end of the name.
  files.config["rank_pattern"] = {{"layers\\.[1-9]+\\.self_attn\\.v_proj", 2}, {"v_proj", 3}};
  files.config["alpha_pattern"] = {{"q_proj", 2.5}, {"model.layers.0.self_attn.q_proj", 7}};
  files.shapes[std::string("base_model.model.") + kV + ".lora_A.weight"] = {2, 6};
  files.shapes[std::string("base_model.model.") + kV + ".lora_B.weight"] = {5, 2};
  const PeftAdapter adapter = files.read();
  EXPECT_EQ(adapter.ranks.at(kQ).r, 4);
  EXPECT_EQ(adapter.ranks.at(kQ).lora_alpha, 2.5);
  EXPECT_EQ(adapter.ranks.at(kV).r, 2);
  EXPECT_EQ(adapter.ranks.at(kV).lora_alpha, 8);
  files.config["rank_pattern"] = {{"v_proj", 3}, {"layers\\.[1-9]+\\.self_attn\\.v_proj", 2}};
  files.expect({kV, "[2, 6]", "rank 3"}, "the other order");
  files.config["rank_pattern"] = {{"proj", 3}};  // no whole component: matches nothing
  files.expect({kV, "rank 4"}, "a pattern that is no component");
}

TEST(ReadPeft, AGrownVocabularyIsSavedInFull) {
  AdapterFolder files;
  files.shapes["base_model.model.model.embed_tokens.weight"] = {9, 6};
  const PeftAdapter adapter = files.read();
  EXPECT_EQ(adapter.config.modules_to_save, std::vector<std::string>{"embed_tokens"});
  EXPECT_TRUE(adapter.tensors.count("model.embed_tokens.weight"));
}

TEST(ReadPeft, InitialisationsThatKeepTheBaseAreRead) {
  for (const nlohmann::ordered_json& value : {nlohmann::ordered_json(true), nlohmann::ordered_json(false), nlohmann::ordered_json("gaussian"),
                                              nlohmann::ordered_json("eva"), nlohmann::ordered_json("orthogonal"), nlohmann::ordered_json("mica")}) {
    AdapterFolder files;
    files.config["init_lora_weights"] = value;
    files.config["eva_config"] = {{"rho", 2.0}};
    EXPECT_EQ(files.read().config.init_lora_weights, value == "gaussian" ? InitLora::gaussian : InitLora::standard);
  }
  for (const char* value : {"pissa", "pissa_niter_16", "PiSSA", "olora", "corda", "loftq", "lora_ga"}) {
    AdapterFolder files;
    files.config["init_lora_weights"] = value;
    files.expect({"init_lora_weights", "path_initial_model_for_weight_conversion"}, value);
  }
}

TEST(ReadPeft, OptionsThatHoneDoesNotHaveAreRefusedByName) {
  const std::vector<std::pair<const char*, nlohmann::ordered_json>> options{
      {"peft_type", "ADALORA"},
      {"peft_type", nullptr},
      {"task_type", "TOKEN_CLS"},
      {"bias", "lora_only"},
      {"lora_bias", true},
      {"layer_replication", {{0, 1}}},
      {"megatron_config", {{"a", 1}}},
      {"trainable_token_indices", {1, 2}},
      {"target_parameters", {"mlp.experts"}},
      {"alora_invocation_tokens", {1}},
      {"use_qalora", true},
      {"use_bdlora", {{"nblocks", 2}}},
      {"kasa_config", {{"beta", 1}}},
      {"arrow_config", {{"top_k", 3}}},
      {"monteclora_config", {{"num_samples", 8}}},
      {"velora_config", {{"scale", 1}}},
      {"some_option_of_tomorrow", true},
  };
  for (const auto& [key, value] : options) {
    AdapterFolder files;
    files.config[key] = value;
    files.expect({key, "not supported", "adapter_config.json"}, key);
  }
  AdapterFolder files;
  files.config["ensure_weight_tying"] = true;
  files.config["modules_to_save"] = {"lm_head"};
  files.expect({"ensure_weight_tying"}, "tied copies");
}

TEST(ReadPeft, ConfigurationsOfTheWrongTypeAreRefused) {
  const std::vector<std::pair<const char*, nlohmann::ordered_json>> values{
      {"r", 0},
      {"r", -4},
      {"r", 4.5},
      {"r", "4"},
      {"r", int64_t{1} << 40},
      {"r", 18446744073709551615u},
      {"lora_alpha", "8"},
      {"lora_dropout", 1.0},
      {"lora_dropout", -0.1},
      {"use_dora", 1},
      {"use_rslora", "yes"},
      {"target_modules", 3},
      {"target_modules", {1}},
      {"target_modules", "("},
      {"target_modules", "(?"},
      {"modules_to_save", "lm_head"},
      {"rank_pattern", {"q_proj"}},
      {"rank_pattern", {{"q_proj", "4"}}},
      {"rank_pattern", {{"q_proj", 0}}},
      {"rank_pattern", {{"q_proj", 2.5}}},
      {"rank_pattern", {{"q_proj", 18446744073709551615u}}},
      {"rank_pattern", {{"[", 4}}},
      {"alpha_pattern", {{"q_proj", true}}},
      {"layers_to_transform", {"a"}},
      {"layers_pattern", "layers"},
      {"init_lora_weights", 3},
      {"peft_type", 3},
      {"exclude_modules", {{"a", 1}}},
  };
  for (const auto& [key, value] : values) {
    AdapterFolder files;
    files.config[key] = value;
    files.expect({key, "adapter_config.json"}, std::string(key) + " " + value.dump());
  }
}

TEST(ReadPeft, BrokenJsonIsRefused) {
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"), std::string("{\"r\": 1, \"r\": 2}"), std::string("\xff\xfe"),
                                  std::string(100000, '['), "{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}"}) {
    AdapterFolder files;
    files.read();
    write_file(files.folder / "adapter_config.json", text);
    expect_refused([&] { read_peft(files.folder); }, {"adapter_config.json"}, text.substr(0, 20));
  }
  for (const char* hash :
       {R"({"base_hash": 3})", R"({"base_hash": "../x"})", R"({"weights_hash": "../x"})", R"({"base_quantisation": "int3"})", "{"}) {
    AdapterFolder files;
    files.read();
    write_file(files.folder / "hone_adapter.json", hash);
    expect_refused([&] { read_peft(files.folder); }, {"hone_adapter.json"}, hash);
  }
}

TEST(ReadPeft, PatternsThatTakeForeverAreRefused) {
  AdapterFolder files;
  files.config["target_modules"] = "([a-z0-9._]+)+[XY]";
  files.expect({"target_modules", "too many steps"}, "exponential expression");
  files.config["target_modules"] = std::string(70000, 'a');
  files.expect({"target_modules", "70000"}, "long expression");
  files.config["target_modules"] = std::string(10000, '(') + std::string(10000, ')');
  files.expect({"target_modules"}, "deep expression");
}

TEST(ReadPeft, TensorsThatDoNotFitAreRefused) {
  const std::string q = std::string("base_model.model.") + kQ;
  const auto broken = [&](const std::vector<std::string>& parts, const std::string& what, const std::function<void(AdapterFolder&)>& change) {
    AdapterFolder files;
    change(files);
    files.expect(parts, what);
  };
  broken({kQ, "no lora_B.weight"}, "A without B", [&](auto& f) { f.shapes.erase(q + ".lora_B.weight"); });
  broken({kQ, "no lora_A.weight"}, "B without A", [&](auto& f) { f.shapes.erase(q + ".lora_A.weight"); });
  broken({kQ, "[3, 6]", "rank 4"}, "A of another rank", [&](auto& f) { f.shapes[q + ".lora_A.weight"] = {3, 6}; });
  broken({kQ, "[5, 3]", "rank 4"}, "B of another rank", [&](auto& f) { f.shapes[q + ".lora_B.weight"] = {5, 3}; });
  broken({"lora_A", "two dimensions"}, "A of one dimension", [&](auto& f) { f.shapes[q + ".lora_A.weight"] = {24}; });
  broken({"lora_A", "two dimensions"}, "an empty A", [&](auto& f) { f.shapes[q + ".lora_A.weight"] = {4, 0}; });
  broken({"no lora_magnitude_vector"}, "DoRA without magnitudes", [&](auto& f) { f.config["use_dora"] = true; });
  broken({"use_dora is false"}, "magnitudes without DoRA", [&](auto& f) { f.shapes[q + ".lora_magnitude_vector"] = {5}; });
  broken({"[4]", "[5]"}, "magnitudes of another shape", [&](auto& f) {
    f.config["use_dora"] = true;
    f.shapes[q + ".lora_magnitude_vector"] = {4};
    f.shapes[std::string("base_model.model.") + kV + ".lora_magnitude_vector"] = {5};
  });
  broken({kV, "PEFT would ignore"}, "a module that is no target", [&](auto& f) { f.config["target_modules"] = {"q_proj"}; });
  broken({"modules_to_save names lm_head"}, "a saved module that is not there", [&](auto& f) { f.config["modules_to_save"] = {"lm_head"}; });
  broken({"model.norm.weight", "not understood"}, "a module that is not saved",
         [&](auto& f) { f.shapes["base_model.model.model.norm.weight"] = {6}; });
  broken({"not understood"}, "a key without the prefix", [&](auto& f) { f.rename(q + ".lora_A.weight", std::string(kQ) + ".lora_A.weight"); });
  broken({"not understood"}, "an adapter of another name", [&](auto& f) { f.rename(q + ".lora_A.weight", q + ".lora_A.other.weight"); });
  broken({"on the embedding"}, "an embedding adapter", [&](auto& f) { f.shapes["base_model.model.model.embed_tokens.lora_embedding_A"] = {4, 6}; });
  broken({"lora_bias"}, "a bias beside B", [&](auto& f) { f.shapes[q + ".lora_B.bias"] = {5}; });
  broken({"there are no tensors"}, "nothing", [&](auto& f) { f.shapes.clear(); });
}

TEST(ReadPeft, FoldersThatAreNoAdapterAreNamed) {
  AdapterFolder files;
  expect_refused([&] { read_peft(files.folder); }, {"no such adapter folder"}, "nothing there");
  files.read();
  expect_refused([&] { read_peft(files.folder / "adapter_config.json"); }, {"name the adapter's folder"}, "a file");
  fs::remove(files.folder / "adapter_model.safetensors");
  expect_refused([&] { read_peft(files.folder); }, {"adapter_model.safetensors is missing"}, "no weights");
  write_file(files.folder / "adapter_model.bin", "x");
  expect_refused([&] { read_peft(files.folder); }, {"adapter_model.bin", "torch.load('adapter_model.bin'", "for k, v in w.items()}"},
                 "pickled weights");
  fs::remove(files.folder / "adapter_config.json");
  expect_refused([&] { read_peft(files.folder); }, {"no adapter_config.json"}, "no configuration");
  write_file(files.folder / "config.json", "{}");
  expect_refused([&] { read_peft(files.folder); }, {"a model folder", "--model"}, "a model");
}

// Every prefix of the weights and many single-byte changes of both files: an adapter or a message, never anything else.
TEST(ReadPeft, DamagedFilesNeverDoHarm) {
  AdapterFolder files;
  files.read();
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json"}) {
    const std::string whole = read_file(files.folder / name);
    const auto attempt = [&](const std::string& bytes) {
      write_file(files.folder / name, bytes);
      try {
        read_peft(files.folder);
      } catch (const UserError& error) {
        EXPECT_EQ(static_cast<int>(error.code()), 2);
      }
    };
    for (size_t size = 0; size < whole.size(); size += 7) attempt(whole.substr(0, size));
    for (size_t at = 0; at < std::min<size_t>(whole.size(), 900); at += 3) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ (at % 2 == 0 ? 0x01 : 0x40));
      attempt(bytes);
    }
    write_file(files.folder / name, whole);
  }
}

TEST(WritePeft, ReadsBackWithEveryValue) {
  ScratchFolder scratch;
  const fs::path folder = scratch.path / "out";
  LoraConfig config;
  config.r = 4;
  config.lora_alpha = 6.5;
  config.use_dora = config.use_rslora = true;
  config.modules_to_save = {"lm_head"};
  config.init_lora_weights = InitLora::pissa;
  config.base_model_name_or_path = "some/base";
  config.base_quantisation = "nf4+nested";
  Shapes shapes{{"lm_head.weight", {7, 6}}};
  for (const char* module : {kQ, kV}) {
    const int64_t r = module == kQ ? 4 : 2;
    shapes[std::string(module) + ".lora_A.weight"] = {r, 6};
    shapes[std::string(module) + ".lora_B.weight"] = {5, r};
    shapes[std::string(module) + ".lora_magnitude_vector"] = {5};
  }
  const auto tensors = producers(shapes);
  for (int round = 0; round < 2; ++round) {  // the second replaces the first
    write_peft(folder, config, {"0123abcd", "89ef"}, tensors, {{kQ, {4, 3.25}}});
    const PeftAdapter read = read_peft(folder);
    EXPECT_EQ(read.base_hash, "0123abcd");
    EXPECT_EQ(read.weights_hash, "89ef");
    EXPECT_EQ(read.config.base_quantisation, config.base_quantisation);
    EXPECT_EQ(read.config.r, 4);
    EXPECT_EQ(read.config.lora_alpha, 6.5);
    EXPECT_TRUE(read.config.use_dora && read.config.use_rslora);
    EXPECT_EQ(read.config.modules_to_save, config.modules_to_save);
    EXPECT_EQ(read.config.base_model_name_or_path, "some/base");
    EXPECT_EQ(read.config.init_lora_weights, InitLora::standard);  // "pissa" would make PEFT change the base again
    EXPECT_EQ(read.config.target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
    EXPECT_EQ(read.ranks.at(kQ).r, 4);
    EXPECT_EQ(read.ranks.at(kQ).lora_alpha, 3.25);
    EXPECT_EQ(read.ranks.at(kV).r, 2);
    EXPECT_EQ(read.ranks.at(kV).lora_alpha, 6.5);
    ASSERT_EQ(read.tensors.size(), tensors.size());
    for (const auto& tensor : tensors) {
      std::vector<float> wanted(static_cast<size_t>(model::checked_elements(tensor.shape, "")));
      tensor.produce(0, tensor.shape[0], wanted.data());
      EXPECT_EQ(values(read.tensors.at(tensor.name)), wanted) << tensor.name;
    }
  }
  EXPECT_FALSE(fs::exists(scratch.path / ".out.writing"));
}

TEST(WritePeft, NothingOfTheUsersIsWrittenOver) {
  ScratchFolder scratch;
  const auto tensors = producers({{std::string(kQ) + ".lora_A.weight", {4, 6}}, {std::string(kQ) + ".lora_B.weight", {5, 4}}});
  write_file(scratch.path / "notes.txt", "mine");
  expect_refused([&] { write_peft(scratch.path, {}, {""}, tensors); }, {"not written over", "adapter"}, "a folder with files");
  EXPECT_EQ(read_file(scratch.path / "notes.txt"), "mine");
  LoraConfig config;
  config.r = 4;
  write_peft(scratch.path / "out", config, {"ab"}, tensors);
  auto failing = tensors;
  failing[1].produce = [](int64_t, int64_t, float*) { fail_resource("disk full"); };
  EXPECT_THROW(write_peft(scratch.path / "out", config, {"cd"}, failing), UserError);
  EXPECT_EQ(read_peft(scratch.path / "out").base_hash, "ab");  // the old one is whole
  EXPECT_FALSE(fs::exists(scratch.path / ".out.writing"));
}

}  // namespace peft_files_test
}  // namespace hone::adapters
