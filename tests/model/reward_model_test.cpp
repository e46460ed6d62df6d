// A reward model's files: what is read, what is saved, what is refused, and the head that a language model gets.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "file_builders.h"
#include "golden/oracle.h"
#include "hone/model/decoder.h"
#include "hone/model/export.h"
#include "hone/model/safetensors.h"
#include "hone/model/source.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;

std::string reward_folder() { return golden::golden_path("trl_reward/untied").string(); }
std::string language_folder() { return golden::golden_path("models/untied_mha_v4").string(); }

std::vector<float> score_of(const Model& model) {
  std::vector<float> row(static_cast<size_t>(model.config.hidden_size));
  read_tensor(model, "score.weight", 0, 1, row.data());
  return row;
}

TEST(RewardModelFiles, OpensOnlyForWhatItIs) {
  expect_refused([] { open_model(reward_folder()); }, {"a reward model", "--reward model:" + reward_folder()}, "as a language model");
  expect_refused([] { open_model(language_folder(), Head::reward); }, {"a language model", "hone reward"}, "as a reward model");
  EXPECT_TRUE(open_model(reward_folder(), Head::reward)->config().reward_model);
  EXPECT_FALSE(open_model(language_folder(), Head::any)->config().reward_model);
}

// Some checkpoints carry a language-model head on; transformers does not read it, and neither does hone. Anything else is a fault.
TEST(RewardModelFiles, ALanguageModelHeadInTheFileIsNotRead) {
  ScratchFolder scratch;
  const auto source = open_model(reward_folder(), Head::reward);
  const auto write = [&](const std::string& name, std::vector<int64_t> shape) {
    fs::remove_all(scratch.path / "model");
    fs::create_directories(scratch.path / "model");
    fs::copy_file(fs::path(reward_folder()) / "config.json", scratch.path / "model" / "config.json");
    std::vector<TensorProducer> tensors;
    for (const TensorSpec& t : source->tensors())
      tensors.push_back({t.name, t.shape, [&source, name = t.name](int64_t b, int64_t e, float* out) { source->load_rows(name, b, e, out); }});
    const int64_t width = shape.back();
    tensors.push_back({name, std::move(shape), [width](int64_t b, int64_t e, float* out) { std::fill(out, out + (e - b) * width, 0.5f); }});
    write_safetensors(scratch.path / "model" / "model.safetensors", tensors, DType::f32);
    return (scratch.path / "model").string();
  };
  EXPECT_EQ(open_model(write("lm_head.weight", {57, 24}), Head::reward)->tensors().size(), source->tensors().size());
  expect_refused([&] { open_model(write("score.bias", {1}), Head::reward); }, {"1 unexpected: score.bias"}, "a bias");
}

TEST(RewardModelFiles, ClassifiersWithMoreRowsAreRefused) {
  ScratchFolder scratch;
  fs::copy(reward_folder(), scratch.path / "model");
  const auto source = open_model(reward_folder(), Head::reward);
  std::vector<TensorProducer> tensors;
  for (const TensorSpec& t : source->tensors()) {
    std::vector<int64_t> shape = t.shape;
    if (t.name == "score.weight") shape[0] = 2;
    tensors.push_back({t.name, shape, [&source, name = t.name](int64_t b, int64_t e, float* out) {
                         if (name != "score.weight") source->load_rows(name, b, e, out);
                       }});
  }
  write_safetensors(scratch.path / "model" / "model.safetensors", tensors, DType::f32);
  expect_refused([&] { open_model((scratch.path / "model").string(), Head::reward); }, {"score.weight is [2, 24], wanted [1, 24]"}, "two rows");
}

TEST(RewardModelFiles, ANewHeadTakesThePlaceOfTheLanguageModels) {
  const auto source = open_model(language_folder());
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    const auto model = load_model(*source, backend, at::kCPU, 16, std::nullopt, /*language_head=*/false);
    EXPECT_FALSE(model->lm_head.defined());
    add_score_head(*model, 42);
    const std::vector<float> first = score_of(*model);
    const auto other = load_model(*source, backend, at::kCPU, 16);
    EXPECT_TRUE(other->lm_head.defined());
    add_score_head(*other, 42);
    EXPECT_FALSE(other->lm_head.defined()) << "dropped";
    EXPECT_EQ(score_of(*other), first) << "the same seed";
    EXPECT_TRUE(std::all_of(first.begin(), first.end(), [](float x) { return std::isfinite(x) && x != 0 && std::abs(x) < 5 * 0.02; }));
    add_score_head(*other, 43);
    EXPECT_NE(score_of(*other), first) << "another seed";
    EXPECT_THROW(model->head(), ProgrammerError);
    EXPECT_EQ(model->parameters().back(), &model->score);
  }
}

// 4,096 draws: mean 0, the deviation that the configuration says.
TEST(RewardModelFiles, TheHeadIsNormalWithTheInitializersDeviation) {
  Model model;
  model.config.hidden_size = 4096;
  model.config.initializer_range = 0.5;
  add_score_head(model, 1);
  double sum = 0, squares = 0, fourth = 0;
  for (float x : score_of(model)) sum += x, squares += x * x, fourth += std::pow(x, 4);
  EXPECT_NEAR(sum / 4096, 0, 4 * 0.5 / 64);  // four standard errors each
  EXPECT_NEAR(squares / 4096, 0.25, 4 * 0.25 * std::sqrt(2.0 / 4096));
  EXPECT_NEAR(fourth / 4096 / (0.25 * 0.25), 3, 4 * std::sqrt(96.0 / 4096));
}

TEST(RewardModelFiles, WhatIsSavedReadsBack) {
  ScratchFolder scratch;
  const auto source = open_model(language_folder());
  const auto model = load_model(*source, ops::Backend::kernels, at::kCPU, 16);
  add_score_head(*model, 5);
  SavedModel saved;
  saved.config = model->config;
  saved.produce = [&](const std::string& name, int64_t begin, int64_t end, float* out) { read_tensor(*model, name, begin, end, out); };
  save_model(scratch.path / "model", saved);
  EXPECT_FALSE(fs::exists(scratch.path / "model" / "generation_config.json")) << "nothing is generated";
  const auto again = open_model((scratch.path / "model").string(), Head::reward);
  EXPECT_EQ(score_of(*load_model(*again, ops::Backend::kernels, at::kCPU, 16)), score_of(*model));
  EXPECT_EQ(again->tensors().size(), source->tensors().size());
  EXPECT_LT(saved_bytes(again->config(), DType::f32), saved_bytes(source->config(), DType::f32));
}

}  // namespace
}  // namespace hone::model
