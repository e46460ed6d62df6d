#include <fmt/format.h>
#include <gtest/gtest.h>

#include "hone/data/rows.h"

namespace hone::data {
namespace {

using nlohmann::json;

const RowRules sft = {{RowKind::messages, RowKind::prompt_completion, RowKind::text}};
const RowRules everything = {
    {RowKind::messages, RowKind::prompt_completion, RowKind::text, RowKind::preference, RowKind::unpaired, RowKind::prompt_only}};

Row row_of(const std::string& text, const RowRules& rules = sft) {
  auto result = parse_row(json::parse(text), {"f", 1}, rules);
  if (const auto* error = std::get_if<RowError>(&result)) {
    ADD_FAILURE() << describe(*error);
    return {};
  }
  return std::get<Row>(std::move(result));
}

std::string kind_of_error(const std::string& text, const RowRules& rules = sft) {
  auto result = parse_row(json::parse(text), {"f", 1}, rules);
  const auto* error = std::get_if<RowError>(&result);
  return error ? error->kind : "no error";
}

TEST(ParseRow, Messages) {
  const Row row = row_of(R"({"messages":[{"role":"user","content":"hi","name":"Ann"},{"role":"assistant","content":"ho"}],"id":7})");
  EXPECT_EQ(row.kind, RowKind::messages);
  ASSERT_EQ(row.prompt.messages.size(), 2u);
  EXPECT_TRUE(row.prompt.is_messages);
  EXPECT_EQ(row.prompt.messages[0].role, "user");
  EXPECT_EQ(row.prompt.messages[1].content, "ho");
  EXPECT_EQ(row.prompt.messages[0].extra, (json{{"name", "Ann"}}));
  EXPECT_EQ(row.columns["id"], 7);
}

TEST(ParseRow, PromptAndCompletion) {
  const Row text = row_of(R"({"prompt":"2+2=","completion":" 4"})");
  EXPECT_EQ(text.kind, RowKind::prompt_completion);
  EXPECT_EQ(text.prompt.text, "2+2=");
  EXPECT_EQ(text.completion.text, " 4");
  EXPECT_FALSE(text.completion.is_messages);
  const Row mixed = row_of(R"({"prompt":[{"role":"user","content":"2+2"}],"completion":"4"})");
  ASSERT_EQ(mixed.completion.messages.size(), 1u);
  EXPECT_TRUE(mixed.completion.is_messages);
  EXPECT_EQ(mixed.completion.messages[0].role, "assistant");
  EXPECT_EQ(mixed.completion.messages[0].content, "4");
  EXPECT_EQ(kind_of_error(R"({"prompt":"2+2","completion":[{"role":"assistant","content":"4"}]})"), "mixed-forms");
}

TEST(ParseRow, TextAndNullColumnsDoNotCount) {
  EXPECT_EQ(row_of(R"({"text":"abc","messages":null})").kind, RowKind::text);
  EXPECT_EQ(row_of(R"({"text":"abc","prompt":"x"})").text, "abc");
}

TEST(ParseRow, ColumnsOfOtherFormsAreNoted) {
  EXPECT_EQ(row_of(R"({"text":"abc","prompt":"x"})").unread, "prompt");
  EXPECT_EQ(row_of(R"({"text":"abc","prompt":"x","completion":"y"})").unread, "text");
  EXPECT_EQ(row_of(R"({"prompt":"x","completion":"y","label":true,"id":4,"chosen":null})").unread, "");
  EXPECT_EQ(row_of(R"({"messages":[{"role":"assistant","content":"a"}],"prompt":"p","chosen":"a","rejected":"b"})").unread,
            "prompt, chosen, rejected");
  EXPECT_EQ(row_of(R"({"prompt":"p","chosen":"a","rejected":"b"})", everything).unread, "");
  RowRules filter = everything;
  filter.for_training = false;
  EXPECT_EQ(row_of(R"({"text":"abc","completion":"x"})", filter).unread, "");
}

TEST(ParseRow, HalfAFormBesideAnotherIsAFault) {
  EXPECT_EQ(kind_of_error(R"({"text":"abc","completion":"x"})"), "mixed-forms");
  EXPECT_EQ(kind_of_error(R"({"messages":[{"role":"assistant","content":"a"}],"completion":"x"})"), "mixed-forms");
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","completion":"x","rejected":"y"})"), "mixed-forms");
}

TEST(ParseRow, PreferenceWithAndWithoutPrompt) {
  const Row given = row_of(R"({"prompt":"p","chosen":"a","rejected":"b"})", everything);
  EXPECT_EQ(given.kind, RowKind::preference);
  EXPECT_EQ(given.prompt.text, "p");
  EXPECT_EQ(given.rejected.text, "b");
  const Row text = row_of(R"({"chosen":"The sky is blue","rejected":"The sky is black"})", everything);
  EXPECT_EQ(text.prompt.text, "The sky is bl");
  EXPECT_EQ(text.chosen.text, "ue");
  const Row spaced = row_of(R"({"chosen":"The sky is up","rejected":"The sky is far"})", everything);
  EXPECT_EQ(spaced.prompt.text, "The sky is");
  EXPECT_EQ(spaced.rejected.text, " far");
  const Row accents = row_of(R"({"chosen":"xé","rejected":"xè"})", everything);  // the two letters share their first byte
  EXPECT_EQ(accents.prompt.text, "x");
  const Row messages = row_of(
      R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]})",
      everything);
  ASSERT_EQ(messages.prompt.messages.size(), 1u);
  ASSERT_EQ(messages.chosen.messages.size(), 1u);
  EXPECT_EQ(messages.rejected.messages[0].content, "b");
}

TEST(ParseRow, UnpairedAndPromptOnly) {
  const Row unpaired = row_of(R"({"prompt":"p","completion":"c","label":true})", everything);
  EXPECT_EQ(unpaired.kind, RowKind::unpaired);
  EXPECT_TRUE(unpaired.label);
  const Row prompt = row_of(R"({"prompt":"p","answer":"4"})", everything);
  EXPECT_EQ(prompt.kind, RowKind::prompt_only);
  EXPECT_EQ(prompt.columns["answer"], "4");
}

TEST(ParseRow, ALabelOfFalseIsNotImitated) {
  EXPECT_EQ(row_of(R"({"prompt":"p","completion":"c","label":true})").kind, RowKind::prompt_completion);
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","completion":"c","label":false})"), "labelled-false");
  RowRules filter = sft;
  filter.for_training = false;
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","completion":"c","label":false})", filter), "no error");
}

TEST(ParseRow, TheFiltersTakeWhatTrainingDoesNot) {
  const std::string prompt = R"({"messages":[{"role":"user","content":"hi"}],"add_generation_prompt":true})";
  EXPECT_EQ(kind_of_error(prompt), "no-assistant-turn");
  RowRules rules = sft;
  rules.for_training = false;
  EXPECT_TRUE(row_of(prompt, rules).add_generation_prompt);
  RowRules all_tokens = sft;
  all_tokens.needs_assistant = false;
  EXPECT_EQ(kind_of_error(prompt, all_tokens), "no error");
  EXPECT_EQ(kind_of_error(R"({"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"user","content":"x"}]})", all_tokens),
            "no-assistant-turn");
}

TEST(ParseRow, ColumnsAreKeptOnDemand) {
  RowRules rules = sft;
  rules.keep_columns = false;
  EXPECT_TRUE(row_of(R"({"text":"a","b":1})", rules).columns.is_null());
}

TEST(ParseRow, RolesAreTheStandardOnes) {
  for (const char* role : {"system", "user", "assistant", "tool", "developer", "function", "ipython"})
    EXPECT_EQ(kind_of_error(fmt::format(R"({{"messages":[{{"role":"{}","content":"x"}},{{"role":"assistant","content":"y"}}]}})", role)), "no error");
  for (const char* role : {"human", "gpt", "bot", "model", "Human"})
    EXPECT_EQ(kind_of_error(fmt::format(R"({{"messages":[{{"role":"user","content":"x"}},{{"role":"{}","content":"x"}},)"
                                        R"({{"role":"assistant","content":"y"}}]}})",
                                        role)),
              "foreign-role")
        << role;
  EXPECT_EQ(kind_of_error(R"({"messages":[{"role":"critic","content":"x"},{"role":"assistant","content":"y"}]})"), "unknown-role");
  EXPECT_EQ(kind_of_error(R"({"messages":[{"role":"asistant","content":"x"},{"role":"assistant","content":"y"}]})"), "misspelt-role");
  EXPECT_EQ(kind_of_error(R"({"messages":[{"role":"User","content":"x"},{"role":"assistant","content":"y"}]})"), "misspelt-role");
  EXPECT_EQ(kind_of_error(R"({"messages":[{"role":7,"content":"x"}]})"), "bad-role");
}

TEST(ParseRow, ExtraColumnsDoNotDisturb) {
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","completion":"c","question":"q","answer":"a","conversations":[]})"), "no error");
  EXPECT_EQ(kind_of_error(R"({"text":"t","tests":"x","mesages":1})"), "no error");
}

TEST(ParseRow, PreferenceFaults) {
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","chosen":"a","rejected":"a"})", everything), "equal-pair");
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","chosen":"a","rejected":""})", everything), "empty-completion");
  EXPECT_EQ(kind_of_error(R"({"chosen":"ab","rejected":"a"})", everything), "empty-completion");
  EXPECT_EQ(kind_of_error(R"({"chosen":"ab","rejected":[{"role":"assistant","content":"c"}]})", everything), "mixed-forms");
  EXPECT_EQ(kind_of_error(R"({"prompt":"p","completion":"c","label":1})", {{RowKind::unpaired}}), "wrong-type");
  EXPECT_EQ(kind_of_error(R"({"prompt":""})", {{RowKind::prompt_only}}), "empty-prompt");
  EXPECT_EQ(
      kind_of_error(R"({"chosen":[{"role":"user","content":"q"}],"rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]})",
                    everything),
      "empty-completion");
}

}  // namespace
}  // namespace hone::data
