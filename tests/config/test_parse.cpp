#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "hone/base/error.h"
#include "hone/config/parse.h"

namespace hone::config {
namespace parse_test {

using testing::ElementsAre;
using testing::HasSubstr;
using Words = std::vector<std::string>;

const Words kModelAndData = {"--model", "m", "--data", "d.jsonl"};

Arguments parse(Command command, const Words& words) { return parse_arguments(command, words); }

/// The SFT configuration of these words after a model and data.
Arguments parse_sft(const Words& words) {
  Words all = kModelAndData;
  all.insert(all.end(), words.begin(), words.end());
  return parse(sft, all);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const UserError& error) {
    EXPECT_EQ(error.code(), Exit::usage);
    return error.what();
  }
  return "(no error)";
}

std::string sft_message(const Words& words) {
  return message_of([&] { parse_sft(words); });
}

std::string yaml_message(const std::string& text) {
  return message_of([&] {
    Arguments arguments;
    apply_yaml(arguments, text, "c.yaml");
  });
}

TEST(Flags, DefaultsAreTrls) {
  const RunConfig config = parse_sft({}).config;
  EXPECT_EQ(config.model_name_or_path, "m");
  EXPECT_THAT(config.data, ElementsAre("d.jsonl"));
  EXPECT_EQ(config.learning_rate, 2e-5);
  EXPECT_EQ(config.num_train_epochs, 3.0);
  EXPECT_EQ(config.max_steps, -1);
  EXPECT_EQ(config.lr_scheduler_type, Schedule::linear);
  EXPECT_EQ(config.max_grad_norm, 1.0);
  EXPECT_EQ(config.max_length, 1024);
  EXPECT_EQ(config.logging_steps, 10);
  EXPECT_EQ(config.seed, 42);
  EXPECT_EQ(config.batch_size, 8);
  EXPECT_EQ(config.max_tree_tokens, 4096);
  EXPECT_FALSE(config.micro_batch_tokens.has_value());
  EXPECT_FALSE(config.gradient_checkpointing.has_value());
  EXPECT_EQ(config.format, Format::text);
  EXPECT_EQ(parse(score, {"--model", "m"}).config.format, Format::jsonl);
}

TEST(Flags, DashesEqualsAndLists) {
  const RunConfig config = parse(sft, {"--model-name-or-path=m", "--train_file", "a", "b", "--max-length=16", "--data", "c", "--micro_batch_tokens",
                                       "256", "--max_time=1h30m", "--resume", "--output", "out", "--shuffle_dataset", "false",
                                       "--gradient_checkpointing", "--lr_scheduler_type=cosine"})
                               .config;
  EXPECT_THAT(config.data, ElementsAre("a", "b", "c"));
  EXPECT_EQ(config.max_length, 16);
  EXPECT_EQ(config.micro_batch_tokens, 256);
  EXPECT_EQ(config.max_time, 5400.0);
  EXPECT_TRUE(config.resume);
  EXPECT_FALSE(config.shuffle_dataset);
  EXPECT_EQ(config.gradient_checkpointing, true);
  EXPECT_EQ(config.lr_scheduler_type, Schedule::cosine);
}

TEST(Flags, GivenHoldsCanonicalNames) {
  const Arguments arguments = parse_sft({"--lr", "0.5"});
  EXPECT_THAT(arguments.given, ElementsAre("data", "learning_rate", "model_name_or_path"));
}

TEST(Flags, ANegativeNumberIsAValue) {
  EXPECT_EQ(parse_sft({"--max_steps", "-1"}).config.max_steps, -1);
  EXPECT_THAT(sft_message({"--max_steps", "-2"}), HasSubstr("'-2' is out of range"));
}

TEST(Flags, EmptyAndAutoWords) {
  EXPECT_FALSE(parse_sft({"--threads", "auto"}).config.threads.has_value());
  EXPECT_EQ(parse_sft({"--threads", "2"}).config.threads, 2);
  EXPECT_FALSE(parse_sft({"--save_total_limit", "none"}).config.save_total_limit.has_value());
  EXPECT_FALSE(parse_sft({"--gradient_checkpointing", "auto"}).config.gradient_checkpointing.has_value());
}

TEST(Flags, ChoicesHaveTrlsAliases) {
  EXPECT_EQ(parse_sft({"--optim", "adamw_torch"}).config.optim, Optimizer::adamw);
  EXPECT_EQ(parse_sft({"--optim", "adamw_8bit"}).config.optim, Optimizer::adamw_8bit);
  EXPECT_EQ(parse_sft({"--optim", "adamw_bnb_8bit"}).config.optim, Optimizer::adamw_8bit);
  EXPECT_EQ(parse_sft({"--dtype", "fp32"}).config.dtype, Dtype::float32);
  EXPECT_THAT(sft_message({"--dtype", "fp16"}), HasSubstr("give --dtype float32"));
  EXPECT_THAT(sft_message({"--device", "cuda:12"}), HasSubstr("comes with a later version"));
  EXPECT_EQ(parse_sft({"--lr_scheduler_type", "constant_with_warmup"}).config.lr_scheduler_type, Schedule::constant);
}

TEST(Adapters, DefaultsAndWhatFollowsFromThem) {
  const RunConfig full = parse_sft({}).config;
  EXPECT_FALSE(full.use_peft || full.load_in_4bit);
  const RunConfig config = parse_sft({"--use_peft"}).config;
  EXPECT_EQ(config.lora_r, 16);
  EXPECT_EQ(config.lora_alpha, 32);
  EXPECT_EQ(config.lora_dropout, 0);
  EXPECT_THAT(config.lora_target_modules, ElementsAre("all-linear"));
  EXPECT_EQ(config.learning_rate, 2e-4);
  EXPECT_EQ(parse_sft({"--use_peft", "--lr", "2e-5"}).config.learning_rate, 2e-5);
  for (const Words& words : {Words{"--load_in_4bit"}, Words{"--adapter", "a"}}) {
    EXPECT_TRUE(parse_sft(words).config.use_peft) << words.front();
    EXPECT_EQ(parse_sft(words).config.learning_rate, 2e-4) << words.front();
    Words refused = words;
    refused.insert(refused.end(), {"--use_peft", "false"});
    EXPECT_THAT(sft_message(refused), HasSubstr("exclude each other")) << words.front();
  }
}

TEST(Adapters, ModuleNamesTakeCommasButRegularExpressionsKeepTheirs) {
  const auto targets = [](const Words& words) {
    Words all = {"--use_peft", "--lora_target_modules"};
    all.insert(all.end(), words.begin(), words.end());
    return parse_sft(all).config.lora_target_modules;
  };
  EXPECT_THAT(targets({"q_proj,v_proj", "o_proj"}), ElementsAre("q_proj", "v_proj", "o_proj"));
  EXPECT_THAT(targets({"all"}), ElementsAre("all-linear"));
  EXPECT_THAT(targets({R"(.*\.[0-9]{1,2}\..*q_proj)", "layers.1.self_attn.k_proj,v_proj"}),
              ElementsAre(R"(.*\.[0-9]{1,2}\..*q_proj)", "layers.1.self_attn.k_proj", "v_proj"));
  for (const char* text : {"", ",", "q_proj,", ",q_proj", "q_proj,,v_proj"}) {
    EXPECT_THAT(sft_message({"--use_peft", std::string("--lora_target_modules=") + text}), HasSubstr("empty name")) << text;
  }
  EXPECT_THAT(sft_message({"--use_peft", "--lora_target_modules", "all-linear,q_proj"}), HasSubstr("give it alone"));
  Arguments arguments;
  apply_yaml(arguments, "use_peft: true\ntarget_modules: 'q_proj,k_proj'\nmodules_to_save: [lm_head]\n", "c.yaml");
  EXPECT_THAT(arguments.config.lora_target_modules, ElementsAre("q_proj", "k_proj"));
  EXPECT_THAT(arguments.config.lora_modules_to_save, ElementsAre("lm_head"));
}

TEST(Adapters, OtherToolsNamesAreAliases) {
  const RunConfig config = parse_sft({"--use_peft", "--lora_rank", "4", "--alpha", "8", "--modules_to_save", "norm,lm_head", "--peft_use_dora",
                                      "--peft_init_lora_weights", "True"})
                               .config;
  EXPECT_EQ(config.lora_r, 4);
  EXPECT_EQ(config.lora_alpha, 8);
  EXPECT_THAT(config.lora_modules_to_save, ElementsAre("norm", "lm_head"));
  EXPECT_TRUE(config.use_dora);
  EXPECT_EQ(config.init_lora_weights, InitLora::standard);
  EXPECT_FALSE(parse_sft({"--load_in_4bit", "--bnb_4bit_use_double_quant", "false"}).config.use_bnb_nested_quant);
}

TEST(Adapters, FlagsThatWouldChangeNothingAreErrors) {
  for (const char* flag : {"--lora_r=8", "--lora_alpha=8", "--lora_dropout=0.1", "--lora_target_modules=q_proj", "--lora_modules_to_save=lm_head",
                           "--use_rslora", "--use_dora", "--init_lora_weights=gaussian", "--loraplus_lr_ratio=16"}) {
    EXPECT_THAT(sft_message({flag}), HasSubstr("changes nothing without an adapter; add --use_peft")) << flag;
    EXPECT_EQ(sft_message({flag, "--load_in_4bit"}), "(no error)") << flag;
  }
  for (const char* flag : {"--bnb_4bit_quant_type=fp4", "--use_bnb_nested_quant=false"}) {
    EXPECT_THAT(sft_message({flag, "--use_peft"}), HasSubstr("changes nothing without --load_in_4bit")) << flag;
    EXPECT_THAT(message_of([&] { parse(score, {"--model", "m", flag}); }), HasSubstr("changes nothing without --load_in_4bit")) << flag;
  }
  for (const char* flag : {"--lora_r=8", "--init_lora_weights=pissa", "--use_dora"}) {
    EXPECT_THAT(sft_message({flag, "--adapter", "a"}), HasSubstr("and --adapter exclude each other")) << flag;
  }
  EXPECT_EQ(sft_message({"--lora_dropout", "0.1", "--loraplus_lr_ratio", "16", "--adapter", "a"}), "(no error)");
}

TEST(Adapters, ASwitchThatStaysOffIsNoError) {
  EXPECT_EQ(sft_message({"--use_dora", "false", "--use_peft", "false", "--load_best_model_at_end", "false"}), "(no error)");
}

TEST(Adapters, RangesAndContradictions) {
  EXPECT_THAT(sft_message({"--use_peft", "--lora_r", "0"}), HasSubstr("out of range"));
  EXPECT_THAT(sft_message({"--use_peft", "--lora_alpha", "0"}), HasSubstr("above 0"));
  EXPECT_THAT(sft_message({"--use_peft", "--lora_dropout", "1"}), HasSubstr("below 1"));
  EXPECT_THAT(sft_message({"--use_peft", "--lora_dropout=-0.1"}), HasSubstr("at least 0"));
  EXPECT_THAT(sft_message({"--load_in_4bit", "--init_lora_weights", "pissa"}), HasSubstr("leave one out"));
  EXPECT_EQ(sft_message({"--load_in_4bit", "--use_dora"}), "(no error)");
  EXPECT_THAT(sft_message({"--adapter="}), HasSubstr("name is empty"));
}

TEST(Adapters, FiltersTakeThemToo) {
  for (const Command command : {score, sample, inspect}) {
    const RunConfig config = parse(command, {"--model", "m", "--adapter", "a", "--load_in_4bit", "--bnb_4bit_quant_type", "fp4"}).config;
    EXPECT_EQ(config.adapter, "a");
    EXPECT_TRUE(config.load_in_4bit);
    EXPECT_EQ(config.bnb_4bit_quant_type, QuantType::fp4);
  }
  EXPECT_EQ(parse(eval, {"--model", "m", "--data", "d", "--adapter", "a"}).config.adapter, "a");
}

TEST(Adapters, RunYamlHoldsWhatAppliesAndReadsBack) {
  const auto yaml_of = [](const Words& words) { return to_yaml(parse_sft(words).config, sft); };
  EXPECT_THAT(yaml_of({}), testing::Not(HasSubstr("lora_")));
  EXPECT_THAT(yaml_of({"--use_peft"}), HasSubstr("lora_r: 16\n"));
  EXPECT_THAT(yaml_of({"--use_peft"}), testing::Not(HasSubstr("bnb_4bit")));
  EXPECT_THAT(yaml_of({"--use_peft"}), HasSubstr("learning_rate: 0.0002\n"));
  EXPECT_THAT(yaml_of({"--adapter", "a"}), testing::Not(HasSubstr("lora_r")));
  EXPECT_THAT(yaml_of({"--adapter", "a"}), HasSubstr("lora_dropout: 0\n"));
  for (const Words& words :
       {Words{}, Words{"--use_peft", "--lora_target_modules", "q_proj,x{1,2}"}, Words{"--load_in_4bit"}, Words{"--adapter", "a"}}) {
    const std::string path = testing::TempDir() + "/hone_adapter.yaml";
    std::ofstream(path) << yaml_of(words);
    EXPECT_EQ(to_yaml(parse(sft, {"--config", path}).config, sft), yaml_of(words));
  }
}

TEST(Flags, InspectReadsDataAsFile) {
  EXPECT_EQ(parse(inspect, {"--model", "m", "--data", "x"}).config.file, "x");
  EXPECT_EQ(parse(inspect, {"--model", "m", "--format", "jsonl"}).config.format, Format::jsonl);
  EXPECT_THAT(message_of([] { parse(inspect, {"--model", "m", "--format", "json"}); }), HasSubstr("not one of text, jsonl (did you mean jsonl?)"));
}

TEST(Flags, HelpNeedsNothingElse) {
  EXPECT_EQ(parse(sft, {"--nonsense", "--help"}).help, Help::common);
  EXPECT_EQ(parse(sft, {"--help-all"}).help, Help::all);
}

TEST(Flags, DoubleScalarsAreRefused) { EXPECT_EQ(sft_message({"--lr=1", "--learning-rate", "2"}), "--learning_rate is given twice"); }

TEST(Flags, NumbersAreReadWhole) {
  for (const char* text : {"", " 8", "8 ", "8x", "0x10", "8.0", "1e3", "99999999999999999999", "--", "+8"}) {
    EXPECT_THAT(sft_message({std::string("--batch_size=") + text}), HasSubstr("--batch_size: ")) << text;
  }
  for (const char* text : {"nan", "inf", "-inf", "1e999", "2e-5x", "", "1,5"}) {
    EXPECT_THAT(sft_message({std::string("--learning_rate=") + text}), HasSubstr("--learning_rate: ")) << text;
  }
}

TEST(Flags, RangesHaveBothEnds) {
  EXPECT_EQ(parse_sft({"--max_length", "2"}).config.max_length, 2);
  EXPECT_THAT(sft_message({"--max_length", "1"}), HasSubstr("allowed: at least 2, at most 1048576"));
  EXPECT_EQ(parse_sft({"--adam_beta1", "0"}).config.adam_beta1, 0);
  EXPECT_THAT(sft_message({"--adam_beta1", "1"}), HasSubstr("below 1"));
  EXPECT_THAT(sft_message({"--num_train_epochs", "0"}), HasSubstr("above 0"));
}

TEST(Flags, Durations) {
  EXPECT_EQ(parse_sft({"--max_time", "90s"}).config.max_time, 90);
  EXPECT_EQ(parse_sft({"--max_time", "0.5m"}).config.max_time, 30);
  for (const char* text : {"20", "m", "20x", "5m1h", "1m1m", "0s", "-5m", "1000d", "", "infs", "nans"}) {
    EXPECT_THAT(sft_message({std::string("--max_time=") + text}), HasSubstr("--max_time: ")) << text;
  }
}

TEST(Flags, ValuesMustBeText) {
  EXPECT_THAT(sft_message({"--output_dir", "a\xff"}), HasSubstr("not text (UTF-8)"));
  EXPECT_THAT(sft_message({"--eval_file=\xed\xa0\x80"}), HasSubstr("not text (UTF-8)"));
}

TEST(Flags, ContradictionsAreFound) {
  EXPECT_THAT(sft_message({"--max_steps", "5", "--warmup_steps", "6"}), HasSubstr("longer than the run"));
  EXPECT_THAT(sft_message({"--load_best_model_at_end"}), HasSubstr("add --eval_file"));
  EXPECT_THAT(sft_message({"--eval_steps", "5"}), HasSubstr("add --eval_file"));
  EXPECT_THAT(sft_message({"--max_tree_tokens", "512"}), HasSubstr("below --max_length"));
  EXPECT_THAT(sft_message({"--resume"}), HasSubstr("--output_dir"));
  EXPECT_THAT(sft_message({"--max_steps", "0"}), HasSubstr("train nothing"));
  EXPECT_THAT(message_of([] { parse(sft, {"--data", "d"}); }), HasSubstr("--model PATH"));
  EXPECT_THAT(message_of([] { parse(sft, {"--model", "m"}); }), HasSubstr("--data FILE"));
  EXPECT_THAT(message_of([] { parse(sample, {"--model", "m", "--prompt", "p", "--file", "f"}); }), HasSubstr("exclude each other"));
}

TEST(Yaml, SetsFieldsAndFlagsWin) {
  Arguments arguments;
  arguments.config.max_length = 64;
  arguments.given = {"max_length"};
  apply_yaml(arguments, "# comment\nmax-length: 128\ndata: [a, 'b c']\nlearning_rate: 1e-4\nresume: true\nmodel: m\n", "c.yaml");
  EXPECT_EQ(arguments.config.max_length, 64);
  EXPECT_THAT(arguments.config.data, ElementsAre("a", "b c"));
  EXPECT_EQ(arguments.config.learning_rate, 1e-4);
  EXPECT_TRUE(arguments.config.resume);
  EXPECT_EQ(arguments.config.model_name_or_path, "m");
}

TEST(Yaml, AnOverriddenValueIsStillChecked) {
  Arguments arguments;
  arguments.given = {"max_length"};
  EXPECT_THAT(message_of([&] { apply_yaml(arguments, "max_length: x\n", "c.yaml"); }), HasSubstr("c.yaml:1: max_length: 'x'"));
}

TEST(Yaml, ErrorsNameFileAndLine) {
  EXPECT_EQ(yaml_message("max_length: 5\nlearning_rte: 1\n"), "c.yaml:2: unknown key 'learning_rte': did you mean learning_rate?");
  EXPECT_EQ(yaml_message("seed: 1\nmodel: a\nmodel_name_or_path: b\n"), "c.yaml:3: model_name_or_path: is given twice (first on line 2)");
  EXPECT_THAT(yaml_message("seed:\n"), HasSubstr("c.yaml:1: seed: has no value"));
  EXPECT_THAT(yaml_message("seed: [1]\n"), HasSubstr("is a list"));
  EXPECT_THAT(yaml_message("seed: {a: 1}\n"), HasSubstr("is a map"));
  EXPECT_THAT(yaml_message("data: []\n"), HasSubstr("the list is empty"));
  EXPECT_THAT(yaml_message("data: [[a]]\n"), HasSubstr("value 1 of the list"));
  EXPECT_THAT(yaml_message("- a\n"), HasSubstr("key: value"));
  EXPECT_THAT(yaml_message("a: b: c\n"), HasSubstr("c.yaml:1: not YAML"));
  EXPECT_THAT(yaml_message("seed: 1\n---\nseed: 2\n"), HasSubstr("2 YAML documents"));
  EXPECT_THAT(yaml_message("output_dir: \"a\\0b\"\n"), HasSubstr("not text"));
  EXPECT_THAT(yaml_message("? [a]\n: 1\n"), HasSubstr("a key is not plain text"));
  EXPECT_THAT(yaml_message("seed: *nothing\n"), HasSubstr("not YAML"));
}

TEST(Yaml, BombsAreBounded) {
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'z'; ++c) bomb += fmt::format("{0}: &{0} [*{1},*{1},*{1},*{1},*{1},*{1},*{1},*{1}]\n", c, static_cast<char>(c - 1));
  EXPECT_THAT(yaml_message(bomb), HasSubstr("unknown key 'a'"));
  const std::string deep(100000, '[');
  EXPECT_THAT(yaml_message("seed: " + deep), HasSubstr("not YAML"));
  std::string dashes;
  for (int i = 0; i < 50000; ++i) dashes += "- ";
  EXPECT_THAT(yaml_message(dashes), HasSubstr("c.yaml"));
}

TEST(Yaml, ConfigReadsBack) {
  const Words words = {"--model",
                       "a \"b\"\n\u00e9",
                       "--data",
                       "x,y",
                       "z: #",
                       "--learning_rate",
                       "0.1",
                       "--max_time",
                       "1h1m1s",
                       "--threads",
                       "3",
                       "--eval_file",
                       "e",
                       "--resume",
                       "--output_dir",
                       "o",
                       "--adam_epsilon",
                       "1e-7"};
  const Arguments first = parse(sft, words);
  Arguments second;
  second.config = defaults(sft);
  apply_yaml(second, to_yaml(first.config, sft), "run.yaml");
  EXPECT_EQ(second.config.model_name_or_path, first.config.model_name_or_path);
  EXPECT_EQ(second.config.data, first.config.data);
  for (const Field& field : fields()) {
    if (!(field.commands & sft)) continue;
    EXPECT_EQ(field_text(second.config, field), field_text(first.config, field)) << field.name;
  }
}

TEST(Yaml, FileComesWithConfigFlag) {
  const std::string path = testing::TempDir() + "/hone_config.yaml";
  std::ofstream(path) << "model: m\ndata: d\nmax_length: 33\nbatch_size: 3\n";
  const RunConfig config = parse(sft, {"--config", path, "--batch_size", "4"}).config;
  EXPECT_EQ(config.max_length, 33);
  EXPECT_EQ(config.batch_size, 4);
  EXPECT_THAT(message_of([] { parse(sft, {"--config", "/nonexistent.yaml"}); }), HasSubstr("/nonexistent.yaml"));
  EXPECT_EQ(message_of([] { parse(sft, {"--config"}); }), "--config needs a value: --config FILE");
}

}  // namespace parse_test
}  // namespace hone::config
