// The flags of dpo, reward, kto, orpo and simpo: defaults, aliases, and what excludes what.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/config/parse.h"

namespace hone::config {
namespace preference_test {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using Words = std::vector<std::string>;

Arguments parse(Command command, Words words) {
  words.insert(words.begin(), {"--model", "m", "--data", "d.jsonl"});
  return parse_arguments(command, words);
}

RunConfig config_of(Command command, Words words = {}) { return parse(command, std::move(words)).config; }

std::string message(Command command, Words words) {
  try {
    parse(command, std::move(words));
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    return error.what();
  }
  return "(no error)";
}

TEST(Preference, DefaultsAreTrls) {
  const RunConfig config = config_of(dpo);
  EXPECT_THAT(config.loss_type, ElementsAre("sigmoid"));
  EXPECT_TRUE(config.loss_weights.empty());
  EXPECT_EQ(config.beta, 0.1);
  EXPECT_EQ(config.label_smoothing, 0);
  EXPECT_EQ(config.f_divergence_type, FDivergence::reverse_kl);
  EXPECT_EQ(config.f_alpha_divergence_coef, 0.5);
  EXPECT_FALSE(config.ld_alpha.has_value());
  EXPECT_EQ(config.discopop_tau, 0.05);
  EXPECT_EQ(config.ref_model_mixup_alpha, 0.6);
  EXPECT_EQ(config.ref_model_sync_steps, 512);
  EXPECT_EQ(config.batch_size, 8);
  EXPECT_EQ(config.max_length, 1024);
  EXPECT_THAT(config_of(kto).loss_type, ElementsAre("kto"));
  EXPECT_THAT(config_of(simpo).loss_type, ElementsAre("simpo"));
  EXPECT_EQ(config_of(simpo).simpo_gamma, 0.5);
  EXPECT_TRUE(config_of(orpo).loss_type.empty());
  EXPECT_EQ(config_of(orpo).beta, 0.1);
  EXPECT_EQ(config_of(reward).center_rewards_coefficient, 0);
}

TEST(Preference, LearningRatesPerTechniqueAndAdapter) {
  for (const Command command : {dpo, kto, orpo, simpo}) {
    EXPECT_EQ(config_of(command).learning_rate, 1e-6);
    EXPECT_EQ(config_of(command, {"--use_peft"}).learning_rate, 1e-5);
    EXPECT_EQ(config_of(command, {"--use_peft", "--lr", "3e-4"}).learning_rate, 3e-4);
  }
  EXPECT_EQ(config_of(reward).learning_rate, 1e-4);
  EXPECT_EQ(config_of(reward, {"--load_in_4bit"}).learning_rate, 1e-3);
  EXPECT_EQ(config_of(sft).learning_rate, 2e-5);
  EXPECT_EQ(config_of(sft, {"--use_peft"}).learning_rate, 2e-4);
}

TEST(Preference, SharedTrainingFlagsBelongToEveryCommand) {
  for (const CommandInfo& info : commands()) {
    if (!(info.command & kPreferenceCommands)) continue;
    for (const Field& field : fields()) {
      if (!(field.commands & sft) || field.name == "assistant_only_loss" || field.name == "completion_only_loss") continue;
      EXPECT_NE(find_field(info.command, field.name), nullptr) << info.name << " " << field.name;
    }
    EXPECT_EQ(find_field(info.command, "completion_only_loss"), nullptr) << info.name;
  }
}

TEST(Losses, AreAListWithWeights) {
  const RunConfig config = config_of(dpo, {"--loss_type", "sigmoid", "bco_pair", "--loss_type", "sft", "--loss_weights", "0.8", "0.2", "1"});
  EXPECT_THAT(config.loss_type, ElementsAre("sigmoid", "bco_pair", "sft"));
  EXPECT_THAT(config.loss_weights, ElementsAre(0.8, 0.2, 1.0));
  EXPECT_THAT(to_yaml(config, dpo), HasSubstr("loss_weights: [0.8, 0.2, 1]\n"));
  Arguments back;
  back.command = dpo;
  back.config = defaults(dpo);
  apply_yaml(back, to_yaml(config, dpo), "run.yaml");
  EXPECT_EQ(back.config.loss_type, config.loss_type);
  EXPECT_EQ(back.config.loss_weights, config.loss_weights);
  EXPECT_EQ(to_yaml(back.config, dpo), to_yaml(config, dpo));
}

TEST(Losses, EveryTrlNameIsTaken) {
  for (const char* loss : {"sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop",
                           "sft", "sigmoid_norm", "robust"}) {
    EXPECT_THAT(config_of(dpo, {"--loss_type", loss}).loss_type, ElementsAre(loss));
  }
  EXPECT_THAT(config_of(dpo, {"--loss_type", "exo_pair", "--label_smoothing", "1e-3"}).loss_type, ElementsAre("exo_pair"));
  for (const char* loss : {"kto", "apo_zero_unpaired"}) EXPECT_THAT(config_of(kto, {"--loss_type", loss}).loss_type, ElementsAre(loss));
  for (const char* loss : {"simpo", "sigmoid", "hinge", "ipo"}) EXPECT_THAT(config_of(simpo, {"--loss_type", loss}).loss_type, ElementsAre(loss));
}

TEST(Losses, UnknownNamesTheNearestOrTheCommandThatHasIt) {
  EXPECT_THAT(message(dpo, {"--loss_type", "sigmod"}), HasSubstr("did you mean sigmoid?"));
  EXPECT_THAT(message(dpo, {"--loss_type", "simpo"}), HasSubstr("give hone simpo"));
  EXPECT_THAT(message(dpo, {"--loss_type", "kto_pair"}), HasSubstr("give hone kto"));
  EXPECT_THAT(message(dpo, {"--loss_type", "cdpo"}), HasSubstr("robust"));
  EXPECT_THAT(message(kto, {"--loss_type", "sigmoid"}), HasSubstr("is not one of kto, apo_zero_unpaired"));
  EXPECT_THAT(message(simpo, {"--loss_type", "simpoo"}), HasSubstr("did you mean simpo?"));
  EXPECT_THAT(message(orpo, {"--loss_type", "sigmoid"}), HasSubstr("belongs to hone dpo, hone grpo, hone kto, hone simpo"));
  EXPECT_THAT(message(sft, {"--loss_type", "dft"}), HasSubstr("belongs to hone dpo"));
}

TEST(Losses, RpoAlphaStandsForTwoLosses) {
  const RunConfig config = config_of(dpo, {"--rpo_alpha", "0.5"});
  EXPECT_THAT(config.loss_type, ElementsAre("sigmoid", "sft"));
  EXPECT_THAT(config.loss_weights, ElementsAre(1.0, 0.5));
  EXPECT_FALSE(config.rpo_alpha.has_value());
  EXPECT_THAT(to_yaml(config, dpo), Not(HasSubstr("rpo_alpha")));
  EXPECT_THAT(message(dpo, {"--rpo_alpha", "1", "--loss_type", "ipo"}), HasSubstr("exclude each other"));
  EXPECT_THAT(message(dpo, {"--rpo_alpha", "1", "--loss_weights", "1"}), HasSubstr("exclude each other"));
}

TEST(Losses, WhatALossNeeds) {
  EXPECT_THAT(message(dpo, {"--loss_type", "exo_pair"}), HasSubstr("exo_pair needs --label_smoothing above 0"));
  EXPECT_THAT(message(dpo, {"--loss_type", "sigmoid", "exo_pair"}), HasSubstr("exo_pair needs --label_smoothing above 0"));
  EXPECT_THAT(message(dpo, {"--loss_type", "robust", "--label_smoothing", "0.5"}), HasSubstr("below 0.5"));
  EXPECT_EQ(message(dpo, {"--loss_type", "robust", "--label_smoothing", "0.49"}), "(no error)");
  EXPECT_THAT(message(dpo, {"--loss_type", "robust", "--label_smoothing", "1"}), HasSubstr("below 1"));
  EXPECT_THAT(message(dpo, {"--loss_type", "sigmoid", "sft", "--loss_weights", "1"}), HasSubstr("1 weights for 2 losses (sigmoid sft)"));
  EXPECT_THAT(message(dpo, {"--loss_weights", "1", "2"}), HasSubstr("2 weights for 1 losses"));
  EXPECT_THAT(message(dpo, {"--loss_weights", "x"}), HasSubstr("'x' is not a number"));
  EXPECT_THAT(message(dpo, {"--loss_weights", "-1"}), HasSubstr("out of range"));
  EXPECT_THAT(message(dpo, {"--loss_weights", "0"}), HasSubstr("nothing trains"));
  EXPECT_THAT(message(dpo, {"--loss_type", "ipo", "ipo"}), HasSubstr("given twice"));
  EXPECT_THAT(message(kto, {"--loss_type", "kto", "apo_zero_unpaired"}), HasSubstr("takes one loss, not 2"));
  EXPECT_THAT(message(kto, {"--batch_size", "1"}), HasSubstr("at least 2"));
  EXPECT_EQ(message(kto, {"--batch_size", "1", "--loss_type", "apo_zero_unpaired"}), "(no error)");
  EXPECT_THAT(message(kto, {"--desirable_weight", "0", "--undesirable_weight", "0"}), HasSubstr("nothing trains"));
  EXPECT_THAT(message(dpo, {"--beta", "0"}), HasSubstr("above 0"));
  EXPECT_EQ(config_of(orpo, {"--beta", "0"}).beta, 0);
}

TEST(Losses, FlagsThatWouldChangeNothingAreErrors) {
  EXPECT_THAT(message(dpo, {"--discopop_tau", "0.1"}), HasSubstr("changes nothing with --loss_type sigmoid: it belongs to discopop"));
  EXPECT_EQ(message(dpo, {"--discopop_tau", "0.1", "--loss_type", "sft", "discopop"}), "(no error)");
  EXPECT_THAT(message(dpo, {"--label_smoothing", "0.1"}), HasSubstr("changes nothing with --loss_type sigmoid"));
  for (const char* flag : {"--ref_model_mixup_alpha=0.5", "--ref_model_sync_steps=5"}) {
    for (const Command command : {dpo, kto}) {
      EXPECT_THAT(message(command, {flag}), HasSubstr("changes nothing without --sync_ref_model")) << flag;
      EXPECT_EQ(message(command, {flag, "--sync_ref_model"}), "(no error)") << flag;
    }
  }
  EXPECT_THAT(message(dpo, {"--f_alpha_divergence_coef", "0.3"}), HasSubstr("without --f_divergence_type alpha_divergence"));
  EXPECT_EQ(message(dpo, {"--f_alpha_divergence_coef", "0.3", "--f_divergence_type", "alpha_divergence"}), "(no error)");
  EXPECT_THAT(message(simpo, {"--simpo_gamma", "1", "--loss_type", "hinge"}), HasSubstr("changes nothing with --loss_type hinge"));
  EXPECT_THAT(message(simpo, {"--label_smoothing", "0.1", "--loss_type", "ipo"}), HasSubstr("changes nothing"));
  EXPECT_THAT(to_yaml(config_of(dpo), dpo), Not(HasSubstr("discopop_tau")));
}

TEST(Losses, CombinationsThatExcludeEachOther) {
  EXPECT_THAT(message(dpo, {"--f_divergence_type", "js_divergence", "--loss_type", "sigmoid", "apo_zero"}),
              HasSubstr("--f_divergence_type and --loss_type apo_zero exclude each other"));
  EXPECT_EQ(message(dpo, {"--f_divergence_type", "js_divergence", "--loss_type", "ipo"}), "(no error)");
  EXPECT_THAT(message(dpo, {"--use_weighting", "--loss_type", "aot_unpaired"}), HasSubstr("exclude each other"));
  for (const Command command : {dpo, reward, kto, orpo, simpo}) {
    EXPECT_THAT(message(command, {"--use_peft", "--lora_dropout", "0.1"}), HasSubstr("hone sft only"));
    EXPECT_EQ(message(command, {"--use_peft", "--lora_dropout", "0"}), "(no error)");
  }
}

TEST(Simpo, HasCposVariantsAndAlphaPo) {
  EXPECT_EQ(config_of(simpo).cpo_alpha, 0);
  EXPECT_EQ(config_of(simpo, {"--loss_type", "sigmoid"}).cpo_alpha, 1);  // CPOConfig's default
  EXPECT_EQ(config_of(simpo, {"--loss_type", "sigmoid", "--cpo_alpha", "0.5"}).cpo_alpha, 0.5);
  const RunConfig config = config_of(simpo, {"--loss_type", "alphapo", "--alpha", "0.25"});
  EXPECT_EQ(config.alphapo_alpha, 0.25);
  EXPECT_EQ(config.lora_alpha, 32);
  EXPECT_EQ(config.cpo_alpha, 0);
  EXPECT_THAT(message(simpo, {"--loss_type", "alphapo"}), HasSubstr("--alphapo_alpha other than 0"));
  EXPECT_THAT(message(simpo, {"--loss_type", "alphapo", "--alpha", "1", "--cpo_alpha", "1"}), HasSubstr("leave it out"));
  EXPECT_EQ(config_of(simpo, {"--alpha", "0.25"}).alphapo_alpha, 0.25);  // as in CPOConfig, with every loss
  EXPECT_EQ(config_of(simpo, {"--use_peft", "--lora_alpha", "8"}).lora_alpha, 8);
}

TEST(Preference, TheBestIsJudgedByMetricsThatTheCommandHas) {
  const auto metric = [](Command command, const char* name) {
    return config_of(command, {"--eval_file", "e", "--metric_for_best_model", name}).metric_for_best_model;
  };
  EXPECT_EQ(config_of(dpo).metric_for_best_model, BestMetric::eval_loss);
  for (const Command command : {dpo, orpo, simpo}) {
    EXPECT_EQ(metric(command, "eval_rewards/accuracies"), BestMetric::eval_rewards_accuracies);
    EXPECT_EQ(metric(command, "rewards/accuracies"), BestMetric::eval_rewards_accuracies);
  }
  EXPECT_EQ(metric(reward, "eval_accuracy"), BestMetric::eval_accuracy);
  EXPECT_EQ(metric(kto, "loss"), BestMetric::eval_loss);
  EXPECT_EQ(metric(sft, "mean_token_accuracy"), BestMetric::eval_mean_token_accuracy);
  EXPECT_THAT(message(kto, {"--eval_file", "e", "--metric_for_best_model", "eval_rewards/accuracies"}), HasSubstr("is not one of eval_loss"));
  EXPECT_THAT(message(dpo, {"--eval_file", "e", "--metric_for_best_model", "eval_mean_token_accuracy"}), HasSubstr("is not one of"));
  EXPECT_STREQ(metric_key(BestMetric::eval_rewards_accuracies), "eval_rewards/accuracies");
}

TEST(Preference, OtherNamesSayWhatToDo) {
  EXPECT_THAT(message(dpo, {"--max_prompt_length", "5"}), HasSubstr("--overlong cut"));
  EXPECT_THAT(message(dpo, {"--precompute_ref_log_probs"}), HasSubstr("leave it out"));
  EXPECT_THAT(message(dpo, {"--reference_free"}), HasSubstr("hone simpo or hone orpo"));
  EXPECT_THAT(message(dpo, {"--ref_model", "x"}), HasSubstr("the policy at step 0"));
  EXPECT_THAT(message(dpo, {"--per_device_train_batch_size", "4"}), HasSubstr("--batch_size"));
  EXPECT_THAT(message(sft, {"--beta", "1"}), HasSubstr("--beta belongs to hone dpo"));
  EXPECT_THAT(message(dpo, {"--completion_only_loss", "false"}), HasSubstr("belongs to hone sft"));
  EXPECT_EQ(config_of(orpo, {"--orpo_alpha", "0.2"}).beta, 0.2);
  EXPECT_EQ(find_command("dpo"), dpo);
}

TEST(Preference, RunYamlReadsBackForEveryCommand) {
  const std::pair<Command, Words> runs[] = {
      {dpo, {"--loss_type", "robust", "ipo", "--label_smoothing", "0.1", "--ld_alpha", "0.5", "--sync_ref_model"}},
      {reward, {"--center_rewards_coefficient", "0.01"}},
      {kto, {"--desirable_weight", "1.5"}},
      {orpo, {"--use_peft"}},
      {simpo, {"--loss_type", "sigmoid"}}};
  for (const auto& [command, words] : runs) {
    const RunConfig first = config_of(command, words);
    Arguments second;
    second.command = command;
    second.config = defaults(command);
    apply_yaml(second, to_yaml(first, command), "run.yaml");
    resolve_defaults(second);
    EXPECT_NO_THROW(validate(second)) << command_name(command);
    for (const Field& field : fields()) {
      if (!(field.commands & command)) continue;
      EXPECT_EQ(field_text(second.config, field), field_text(first, field)) << field.name;
    }
  }
}

}  // namespace preference_test
}  // namespace hone::config
