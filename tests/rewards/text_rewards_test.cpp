// exact, regex, format; specs and names.
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/rewards/reward.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

TEST(Specs, NamesComeFromTheSpecOrFromTheUser) {
  const auto is = [](const char* text, const char* name, const char* spec) {
    const NamedSpec split = split_spec(text);
    EXPECT_EQ(split.name, name) << text;
    EXPECT_EQ(split.spec, spec) << text;
  };
  is("math", "math", "math");
  is("acc=math", "acc", "math");
  is("regex:a=b", "regex", "regex:a=b");
  is("form=format:a=b", "form", "format:a=b");
  is("python:my/rewards.py:accuracy", "accuracy", "python:my/rewards.py:accuracy");
  is("program:./check --level=3", "program", "program:./check --level=3");
  is("x=", "x", "");
}

TEST(Specs, VerdictsHaveNames) {
  for (int i = 0; i < kVerdicts; ++i) EXPECT_EQ(find_verdict(verdict_name(static_cast<Verdict>(i))), static_cast<Verdict>(i));
  EXPECT_STREQ(verdict_name(Verdict::gold_unparsed), "gold-unparsed");
  EXPECT_FALSE(find_verdict("RIGHT"));
}

TEST(Specs, BadOnesAreNamed) {
  EXPECT_THAT(refusal("mth"), testing::HasSubstr("did you mean math?"));
  EXPECT_THAT(refusal("nonsense"), testing::HasSubstr("regex:PATTERN"));
  EXPECT_THAT(refusal(""), testing::HasSubstr("there are math"));
  EXPECT_THAT(refusal("exact:3"), testing::HasSubstr("nothing behind a colon"));
  EXPECT_THAT(refusal("regex"), testing::HasSubstr("regex:PATTERN"));
  EXPECT_THAT(refusal("regex:"), testing::HasSubstr("regex:PATTERN"));
  EXPECT_THAT(refusal("regex:(a"), testing::HasSubstr("missing )"));
  EXPECT_THAT(refusal("format:(?=a)"), testing::HasSubstr("no look-around"));
  EXPECT_THAT(refusal("model:x"), testing::HasSubstr("not possible here"));
}

TEST(Exact, SpaceAtTheEndsDoesNotCountCaseDoes) {
  const nlohmann::json row{{"answer", " Paris "}};
  EXPECT_EQ(verdict("exact", row, "\n Paris\t"), "right 1");
  EXPECT_EQ(verdict("exact", row, "paris"), "wrong 0");
  EXPECT_EQ(verdict("exact", row, "Par is"), "wrong 0");
  EXPECT_EQ(verdict("exact", row, ""), "wrong 0");
  EXPECT_EQ(verdict("exact", {{"answer", 12}}, "12"), "right 1");
  EXPECT_EQ(verdict("exact", {{"answer", true}}, "true"), "right 1");
}

TEST(Exact, ABadGoldIsNotScored) {
  EXPECT_EQ(verdict("exact", nlohmann::json::object(), "x"), "gold-unparsed -");
  EXPECT_EQ(verdict("exact", {{"answer", nullptr}}, "x"), "gold-unparsed -");
  EXPECT_THAT(row_fault("exact", nlohmann::json::object()), testing::HasSubstr("no \"answer\""));
  EXPECT_THAT(row_fault("exact", {{"answer", {1, 2}}}), testing::HasSubstr("array"));
  EXPECT_EQ(row_fault("exact", {{"answer", ""}}), "");
}

TEST(Regex, IsFoundAnywhere) {
  const nlohmann::json row = nlohmann::json::object();
  EXPECT_EQ(verdict("regex:\\b42\\b", row, "it is 42."), "right 1");
  EXPECT_EQ(verdict("regex:\\b42\\b", row, "it is 421."), "wrong 0");
  EXPECT_EQ(verdict("regex:^yes|no$", row, "I say no"), "right 1");
  EXPECT_EQ(verdict("regex:a.b", row, "a\nb"), "wrong 0");
  EXPECT_EQ(verdict("regex:(?s)a.b", row, "a\nb"), "right 1");
  EXPECT_EQ(verdict("regex:\xC3\xA9+$", row, "caf\xC3\xA9\xC3\xA9"), "right 1");
}

TEST(Regex, AGroupNamedAnswerIsCompared) {
  const nlohmann::json row{{"answer", "12"}};
  const std::string spec = "regex:Answer: (?P<answer>\\d*)";
  EXPECT_EQ(verdict(spec, row, "Answer: 7 ... Answer: 12"), "right 1");
  EXPECT_EQ(verdict(spec, row, "Answer: 12 ... Answer: 7"), "wrong 0");
  EXPECT_EQ(verdict(spec, row, "12"), "unparsed 0");
  EXPECT_EQ(verdict(spec, nlohmann::json::object(), "Answer: 12"), "gold-unparsed -");
  EXPECT_EQ(verdict("regex:(?P<answer>x*)", {{"answer", ""}}, "yy"), "right 1");  // empty matches come to an end
  EXPECT_THAT(row_fault(spec, nlohmann::json::object()), testing::HasSubstr("answer"));
}

TEST(Regex, IsLinearOnHostileText) {
  EXPECT_EQ(verdict("regex:^(a+)+$", nlohmann::json::object(), fmt::format("{:a>1000000}", '!')), "wrong 0");
  EXPECT_EQ(verdict("format:(a|aa)+", nlohmann::json::object(), fmt::format("{:a>1000000}", '!')), "wrong 0");
}

// Each match looks at all of the rest for a z: the search for the last match is cut, not quadratic.
TEST(Regex, TheSearchForTheLastAnswerIsBounded) {
  const nlohmann::json row{{"answer", "a"}};
  EXPECT_THAT(verdict("regex:(?P<answer>a)(?:.*z)?", row, std::string(1000000, 'a')), testing::StartsWith("timed-out -"));
  EXPECT_EQ(verdict("regex:(?P<answer>a)(?:.*z)?", row, std::string(1000, 'a')), "right 1");
}

TEST(Format, TheWholeCompletionMatches) {
  const std::string spec = "format:<think>.*</think>\\s*<answer>.*</answer>";
  const nlohmann::json row = nlohmann::json::object();
  EXPECT_EQ(verdict(spec, row, "<think>a\nb</think>\n<answer>3</answer>"), "right 1");
  EXPECT_EQ(verdict(spec, row, "<think>a</think><answer>3</answer> and more"), "wrong 0");
  EXPECT_EQ(verdict(spec, row, ""), "wrong 0");
}

}  // namespace
}  // namespace hone::rewards
