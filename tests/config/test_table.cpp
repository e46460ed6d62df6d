#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/config/parse.h"

namespace hone::config {
namespace table_test {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

TEST(Table, NamesAreUniqueWithinACommand) {
  for (const CommandInfo& info : commands()) {
    std::map<std::string, int> seen;
    for (const Field& field : fields()) {
      if (!(field.commands & info.command)) continue;
      ++seen[field.name];
      for (const std::string& alias : field.aliases) ++seen[alias];
    }
    for (const auto& [name, count] : seen) EXPECT_EQ(count, 1) << info.name << " " << name;
  }
}

TEST(Table, EveryRowIsWhole) {
  for (const Field& field : fields()) {
    EXPECT_FALSE(field.help.empty()) << field.name;
    EXPECT_FALSE(value_name(field).empty()) << field.name;
    EXPECT_NE(field.commands, 0u) << field.name;
    EXPECT_FALSE(field.group.empty()) << field.name;
    EXPECT_EQ(field.name.find('-'), std::string::npos) << field.name;
  }
}

TEST(Table, EveryDefaultIsAllowed) {
  for (const CommandInfo& info : commands()) {
    const RunConfig start = defaults(info.command);
    for (const Field& field : fields()) {
      if (!(field.commands & info.command)) continue;
      const std::string text = field_text(start, field);
      if (text.empty()) continue;
      RunConfig config = start;
      start_list(config, field);
      EXPECT_NO_THROW(set_field(config, field, text, field.name)) << info.name << " " << field.name;
      EXPECT_EQ(field_text(config, field), text);
    }
  }
}

TEST(Help, ShowsAboutTwentyFlagsAndHidesWhatIsToCome) {
  for (const CommandInfo& info : commands()) {
    const std::string common = command_help(info.command, Help::common);
    const std::string all = command_help(info.command, Help::all);
    int shown = 0, hidden = 0;
    for (const Field& field : fields()) {
      if (!(field.commands & info.command)) continue;
      ++(field.common ? shown : hidden);
      EXPECT_THAT(all, ContainsRegex("--" + field.name + "[ ,]"));
    }
    EXPECT_LE(shown, info.command & kOnPolicyCommands ? 30 : info.command & kPreferenceCommands ? 24 : 22) << info.name;
    EXPECT_EQ(common.find(fmt::format(" {} more flags", hidden)) != std::string::npos, hidden > 0) << info.name;
    for (const char* later : {"cuda", "bfloat16", "report_to"}) EXPECT_THAT(all, Not(HasSubstr(later))) << info.name;
  }
  for (const char* later : {"plan", "advise", "curate", "compare"}) EXPECT_THAT(program_help(), Not(HasSubstr(later)));
}

TEST(Unknown, NamesTheNearest) {
  EXPECT_EQ(explain_unknown(sft, "learning-rte", "flag"), "unknown flag --learning-rte: did you mean --learning_rate?");
  EXPECT_THAT(explain_unknown(sft, "qqqqqqqqqq", "flag"), HasSubstr("hone sft --help_all"));
  EXPECT_EQ(explain_unknown(sft, "temperature", "flag"),
            "--temperature belongs to hone grpo, hone ppo, hone rloo, hone eval, hone sample, hone chat, not to hone sft");
}

TEST(Unknown, OtherToolsNamesSayWhatToUse) {
  EXPECT_THAT(explain_unknown(sft, "per-device-train-batch-size", "flag"), HasSubstr("--batch_size"));
  EXPECT_THAT(explain_unknown(sft, "gradient_accumulation_steps", "key"), HasSubstr("per_device_train_batch_size x gradient_accumulation_steps"));
  EXPECT_THAT(explain_unknown(sft, "cutoff_len", "flag"), HasSubstr("--max_length"));
  EXPECT_THAT(explain_unknown(sft, "load_in_8bit", "flag"), HasSubstr("--load_in_4bit"));
  EXPECT_THAT(explain_unknown(sft, "lora_target_linear", "flag"), HasSubstr("all-linear"));
  EXPECT_THAT(explain_unknown(sft, "per_device_batch_size", "flag"), HasSubstr("--batch_size"));
}

TEST(Unknown, WhatIsToComeIsRefusedByName) {
  for (const char* name : {"lora_target_parameters", "report_to", "gradient_shards"}) {
    EXPECT_THAT(explain_unknown(sft, name, "flag"), HasSubstr("comes with a later version")) << name;
  }
  for (const char* name : {"plan", "advise", "curate", "compare"}) {
    try {
      find_command(name);
      FAIL() << name;
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr("comes with a later version"));
    }
  }
}

/// HONE_WRITE_DOCS=1 writes the page instead of comparing it.
TEST(Docs, OptionsPageIsTheTable) {
  const std::string path = std::string(HONE_SOURCE_DIR) + "/docs/options.md";
  if (std::getenv("HONE_WRITE_DOCS")) write_atomic(path, options_page());
  EXPECT_EQ(read_text(path), options_page()) << "write it anew: HONE_WRITE_DOCS=1 build/tests/test_config";
}

}  // namespace table_test
}  // namespace hone::config
