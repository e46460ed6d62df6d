#include "hone/model/export.h"

#include <gtest/gtest.h>

#include <bit>
#include <nlohmann/json.hpp>

#include "file_builders.h"
#include "hone/model/source.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

struct Saved {
  std::unique_ptr<ModelSource> source = open_model(fixture("llama_q8").string());
  SavedModel model;
  Saved() {
    model.config = source->config();
    model.produce = [this](const std::string& name, int64_t begin, int64_t end, float* out) { source->load_rows(name, begin, end, out); };
  }
};

void expect_same(const ModelSource& wanted, const ModelSource& got, DType dtype) {
  ASSERT_EQ(wanted.tensors().size(), got.tensors().size());
  for (const TensorSpec& tensor : wanted.tensors()) {
    std::vector<float> a(static_cast<size_t>(tensor.elements())), b(a.size());
    wanted.load(tensor.name, a.data());
    got.load(tensor.name, b.data());
    for (size_t i = 0; i < a.size(); ++i) {
      const float rounded = dtype == DType::f32 ? a[i] : dtype == DType::bf16 ? bf16_to_float(float_to_bf16(a[i])) : f16_to_float(float_to_f16(a[i]));
      ASSERT_EQ(std::bit_cast<uint32_t>(b[i]), std::bit_cast<uint32_t>(rounded)) << tensor.name << " " << i;
    }
  }
}

size_t entries(const fs::path& folder) { return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator())); }

TEST(Export, WhatIsSavedReadsBack) {
  ScratchFolder scratch;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Saved saved;
    saved.model.dtype = dtype;
    const fs::path folder = scratch.path / std::string(dtype_name(dtype));
    save_model(folder, saved.model);
    const auto again = open_model(folder.string());
    expect_same(*saved.source, *again, dtype);
    EXPECT_EQ(again->config().eos_token_ids, saved.model.config.eos_token_ids);
    EXPECT_EQ(again->config().rope_theta, 12345.0);
    EXPECT_EQ(again->config().dtype, dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "float16");
    EXPECT_FALSE(fs::exists(folder / "tokenizer.json"));
  }
  EXPECT_EQ(entries(scratch.path), 3u) << "a temporary folder was left";
}

TEST(Export, LargeModelsAreSharded) {
  ScratchFolder scratch;
  Saved saved;
  saved.model.max_shard_bytes = 30000;
  save_model(scratch.path / "model", saved.model);
  const json index = json::parse(read_file(scratch.path / "model/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], saved_bytes(saved.model.config, DType::f32));
  EXPECT_EQ(index["weight_map"].size(), saved.source->tensors().size());
  EXPECT_FALSE(fs::exists(scratch.path / "model/model.safetensors"));
  EXPECT_TRUE(fs::exists(scratch.path / "model/model-00001-of-00004.safetensors"));
  for (const auto& [tensor, file] : index["weight_map"].items())
    EXPECT_LE(fs::file_size(scratch.path / "model" / file.get<std::string>()), 30000u + 4096u) << tensor;
  expect_same(*saved.source, *open_model((scratch.path / "model").string()), DType::f32);
}

TEST(Export, TokenizerTemplateAndEndTokens) {
  ScratchFolder scratch;
  Saved saved;
  saved.model.tokenizer_json = R"({"version":"1.0"})";
  saved.model.tokenizer_config_json = R"({"tokenizer_class":"GPT2Tokenizer","eos_token":"<old>","model_max_length":8192})";
  saved.model.chat_template = "{{ messages }}";
  saved.model.eos_token = "<|im_end|>";
  saved.model.pad_token = "<pad>";
  saved.model.end_of_turn_ids = {3};
  saved.model.generation_config_json = R"({"temperature":0.2,"eos_token_id":9,"transformers_version":"4.0"})";
  save_model(scratch.path / "model", saved.model);
  const fs::path folder = scratch.path / "model";
  EXPECT_EQ(read_file(folder / "tokenizer.json"), saved.model.tokenizer_json);
  EXPECT_EQ(read_file(folder / "chat_template.jinja"), "{{ messages }}");
  EXPECT_EQ(json::parse(read_file(folder / "tokenizer_config.json")),
            json::parse(R"({"tokenizer_class":"GPT2Tokenizer","eos_token":"<|im_end|>","pad_token":"<pad>","model_max_length":8192,
                            "clean_up_tokenization_spaces":false,"chat_template":"{{ messages }}"})"));
  EXPECT_EQ(json::parse(read_file(folder / "generation_config.json")),
            json::parse(R"({"temperature":0.2,"eos_token_id":3,"bos_token_id":1,"pad_token_id":0})"));
  const TokenizerSource tokenizer = open_tokenizer_source(folder.string());
  EXPECT_EQ(tokenizer.eos_token, "<|im_end|>");
  EXPECT_EQ(tokenizer.chat_template, "{{ messages }}");
}

TEST(Export, AModelFolderIsReplacedInOneStepAndNothingElseIs) {
  ScratchFolder scratch;
  Saved saved;
  const fs::path folder = scratch.path / "model";
  fs::create_directory(folder);
  save_model(folder, saved.model);  // an empty folder
  write_file(folder / "left over", "x");
  save_model(folder.string() + "/", saved.model);
  EXPECT_FALSE(fs::exists(folder / "left over"));
  EXPECT_NO_THROW(open_model(folder.string()));
  EXPECT_EQ(entries(scratch.path), 1u);

  const fs::path mine = scratch.path / "mine";
  fs::create_directory(mine);
  write_file(mine / "thesis.txt", "x");
  expect_refused([&] { save_model(mine, saved.model); }, {"mine", "not written over"}, "another folder");
  write_file(scratch.path / "file", "x");
  expect_refused([&] { save_model(scratch.path / "file", saved.model); }, {"a file stands"}, "a file");
  EXPECT_EQ(read_file(mine / "thesis.txt"), "x");
}

TEST(Export, AFailureLeavesWhatStoodThere) {
  ScratchFolder scratch;
  Saved saved;
  const fs::path folder = scratch.path / "model";
  save_model(folder, saved.model);
  const std::string before = open_model(folder.string())->content_hash();
  int calls = 0;
  const auto produce = saved.model.produce;
  saved.model.produce = [&](const std::string& name, int64_t begin, int64_t end, float* out) {
    if (++calls == 5) throw UserError(Exit::resource, "the disk is full");
    produce(name, begin, end, out);
  };
  EXPECT_THROW(save_model(folder, saved.model), UserError);
  EXPECT_EQ(open_model(folder.string())->content_hash(), before);
  EXPECT_EQ(entries(scratch.path), 1u) << "a temporary folder was left";
}

}  // namespace
}  // namespace hone::model
