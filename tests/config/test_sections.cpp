// hone rlhf's file: sections, what the stages take from the run and from each other, gates, and what is wrong with it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/config/parse.h"

namespace hone::config {
namespace sections_test {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string kSections = "sft: {data: d}\nreward: {data: p}\nppo: {data: q}\n";

Arguments read(const std::string& text, std::set<std::string> by_flag = {}) {
  Arguments run;
  run.command = rlhf;
  run.config = defaults(rlhf);
  run.config_file = "f.yaml";
  run.given = std::move(by_flag);
  apply_sections(run, text, "f.yaml");
  return run;
}

std::vector<Stage> stages(const std::string& text) { return connect_stages(read(text), "out"); }
const RunConfig& config_of(const std::vector<Stage>& all, size_t i) { return all.at(i).arguments.config; }

std::string message(const std::string& text) {
  try {
    stages(text);
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    return error.what();
  }
  return "(no error)";
}

TEST(Sections, WholeModelsAreHandedOn) {
  const auto all = stages("model: base\n" + kSections);
  EXPECT_EQ(config_of(all, 0).model_name_or_path, "base");
  EXPECT_EQ(config_of(all, 1).model_name_or_path, "out/sft/model");
  EXPECT_EQ(config_of(all, 2).model_name_or_path, "out/sft/model");
  EXPECT_THAT(config_of(all, 2).reward, ElementsAre("model:out/reward/model"));
  EXPECT_EQ(config_of(all, 2).adapter, "");
  EXPECT_EQ(config_of(all, 2).output_dir, "out/ppo");
}

TEST(Sections, AdaptersStandOnOneBase) {
  const auto all = stages("model: base\nload_in_4bit: true\nlora_r: 4\n" + kSections);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(config_of(all, i).model_name_or_path, "base");
    EXPECT_TRUE(config_of(all, i).use_peft && config_of(all, i).load_in_4bit);
    EXPECT_EQ(config_of(all, i).lora_r, 4);
  }
  EXPECT_EQ(config_of(all, 1).adapter, "");
  EXPECT_EQ(config_of(all, 2).adapter, "out/sft/model");
  EXPECT_EQ(config_of(all, 0).learning_rate, 2e-4);
  EXPECT_EQ(config_of(all, 2).learning_rate, 3e-5);
}

TEST(Sections, TheirKeysWinAndFlagsWinOverThem) {
  Arguments run = read(
      "model: base\nseed: 1\nmax_length: 600\nsft: {data: d, seed: 2}\nreward: {data: p, model: other}\nppo: {data: q, reward: [math], max_length: "
      "700}\n");
  auto all = connect_stages(run, "out");
  EXPECT_EQ(config_of(all, 0).seed, 2);
  EXPECT_EQ(config_of(all, 1).seed, 1);
  EXPECT_EQ(config_of(all, 1).model_name_or_path, "other");
  EXPECT_EQ(config_of(all, 1).max_length, 600);
  EXPECT_EQ(config_of(all, 2).max_length, 700);
  EXPECT_THAT(config_of(all, 2).reward, ElementsAre("math"));
  run.config.seed = 9;
  run.by_flag = {"seed"};
  all = connect_stages(run, "out");
  EXPECT_EQ(config_of(all, 0).seed, 9);
}

TEST(Sections, WhatMeansNothingToAStageIsNotForcedOnIt) {
  const auto all = stages(
      "model: base\nuse_peft: true\nlora_r: 4\neval_steps: 3\nsft: {data: d, use_peft: false}\nreward: {data: p, eval_file: e}\nppo: {data: q}\n");
  EXPECT_FALSE(config_of(all, 0).use_peft);
  EXPECT_EQ(config_of(all, 1).model_name_or_path, "out/sft/model");
  EXPECT_EQ(config_of(all, 1).eval_steps, 3);
}

TEST(Sections, Gates) {
  const Arguments run = read("model: b\n" + kSections + "gate: {max_eval_loss: 2, min-reward-accuracy: 0.7, max_kl: 0}\n");
  EXPECT_EQ(run.gates.max_eval_loss, 2);
  EXPECT_EQ(run.gates.min_reward_accuracy, 0.7);
  EXPECT_EQ(run.gates.max_kl, 0);
  // A gate may stand in its stage's section, too.
  const Arguments inside =
      read("model: b\nsft: {data: a, eval_file: e, gate: {max_eval_loss: 2}}\nreward: {data: p}\nppo: {data: q}\ngate: {max_kl: 1}\n");
  EXPECT_EQ(inside.gates.max_eval_loss, 2);
  EXPECT_EQ(inside.gates.max_kl, 1);
  EXPECT_THAT(message("sft: {data: a, gate: {max_kl: 2}}\nreward: {data: p}\nppo: {data: q}\n"), HasSubstr("is a gate of the stage ppo"));
  EXPECT_THAT(message("sft: {data: a, gate: {max_eval_loss: 2}}\nreward: {data: p}\nppo: {data: q}\ngate: {max_eval_loss: 1}\n"),
              HasSubstr("is given twice"));
  EXPECT_THAT(message("model: b\n" + kSections + "gate: {min_reward_accuracy: 0.7}\n"), HasSubstr("add eval_file to the section reward"));
}

TEST(Sections, YamlReadsBack) {
  const std::string text =
      "model: base\nload_in_4bit: true\nseed: 7\nsft: {data: [a, b], eval_file: e}\nreward: {data: p}\nppo: {data: q, kl_coef: 0.1}\ngate: {max_kl: "
      "0.5}\n";
  Arguments run = read(text);
  run.config.output_dir = "out";
  const auto all = connect_stages(run, "out");
  const std::string yaml = to_yaml(run, all);
  EXPECT_THAT(yaml, Not(HasSubstr("out/sft")));
  Arguments again = read(yaml);
  const auto same = connect_stages(again, "out");
  EXPECT_EQ(to_yaml(again, same), yaml);
  EXPECT_EQ(config_of(same, 2).adapter, "out/sft/model");
  EXPECT_EQ(config_of(same, 2).kl_coef, 0.1);
  EXPECT_EQ(again.gates.max_kl, 0.5);
}

TEST(Sections, BadFilesAreNamedWithTheirPlace) {
  EXPECT_THAT(message("model: b\nsft:\n  data: d\n  learning_rte: 1\nreward: {data: p}\nppo: {data: q}\n"),
              HasSubstr("f.yaml:4: unknown key 'learning_rte': did you mean learning_rate?"));
  EXPECT_THAT(message("modle: b\n" + kSections), HasSubstr("f.yaml:1: unknown key 'modle': did you mean model?"));
  EXPECT_THAT(message("sftt: {data: d}\n"), HasSubstr("did you mean sft?"));
  EXPECT_THAT(message("data: x\n" + kSections),
              HasSubstr("f.yaml:1: 'data' is a key of the file's sections, not of the whole run: give it in sft, reward, ppo"));
  EXPECT_THAT(message("kl_coef: 1\n" + kSections), HasSubstr("give it in ppo"));
  EXPECT_THAT(message("model: b\nsft: {data: d, resume: true}\n"), HasSubstr("f.yaml:2: 'resume' belongs to the whole run"));
  EXPECT_THAT(message("model: b\nsft: {data: d}\nreward: {data: p}\n"), HasSubstr("the section ppo is missing"));
  EXPECT_THAT(message("model: b\nsft: {data: d, seed: x}\n"), HasSubstr("f.yaml:2: seed: 'x' is not a whole number"));
  EXPECT_THAT(message("sft: [1]\n"), HasSubstr("f.yaml:1: sft: is a section"));
  EXPECT_THAT(message("gate: 3\n" + kSections), HasSubstr("f.yaml:1: gate: not a list"));
  EXPECT_THAT(message("gate: {max_kl: x}\n" + kSections), HasSubstr("f.yaml:1: gate: max_kl: 'x' is not a number"));
  EXPECT_THAT(message(kSections), HasSubstr("f.yaml: sft: hone sft needs a model"));
  EXPECT_THAT(message("model: b\nuse_peft: true\nsft: {data: d}\nreward: {data: p}\nppo: {data: q, use_peft: false}\n"),
              HasSubstr("f.yaml: ppo: --use_peft false"));
  EXPECT_THAT(message("model: b\nsft: {data: d}\nreward: {data: p, lora_dropout: 0.1, use_peft: true}\nppo: {data: q}\n"),
              HasSubstr("f.yaml: reward: --lora_dropout"));
}

}  // namespace sections_test
}  // namespace hone::config
