// math on the real data: GSM8K's labelled solutions, MATH's gold answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "hone/rewards/math_answer.h"
#include "hone/rewards/math_tree.h"
#include "judge_support.h"
#include "shared_rows.h"

namespace hone::rewards {
namespace {

TEST(MathOnGsm8k, EveryLabelledSolutionAgrees) {
  const auto rows = shared_rows("gsm8k/model_solutions_dev.jsonl");
  if (rows.empty()) GTEST_SKIP() << "gsm8k/model_solutions_dev.jsonl is not here";
  const auto math = make_reward("math", {});
  int solutions = 0, disagreements = 0;
  for (const auto& row : rows)
    for (const char* model : {"6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"}) {
      const nlohmann::json gold{{"answer", row["ground_truth"]}};
      const Sample sample{&gold, row[model]["solution"], {}, false};
      const Judgement judged = math->judge({&sample, 1})[0];
      ++solutions;
      if ((judged.verdict == Verdict::right) != row[model]["is_correct"].get<bool>()) {
        ++disagreements;
        ADD_FAILURE() << verdict_name(judged.verdict) << " " << judged.detail << "\n" << sample.completion;
      }
    }
  EXPECT_EQ(solutions, 1600);
  EXPECT_EQ(disagreements, 0);
}

TEST(MathOnGsm8k, EveryGoldIsRead) {
  const auto rows = shared_rows("gsm8k/train.jsonl");
  if (rows.empty()) GTEST_SKIP() << "gsm8k/train.jsonl is not here";
  const auto math = make_reward("math", {});
  for (const auto& row : rows) {
    EXPECT_EQ(math->check_row(row), "");
    const Sample sample{&row, row["answer"], {}, false};
    EXPECT_EQ(math->judge({&sample, 1})[0].verdict, Verdict::right) << row["answer"];
  }
}

TEST(MathOnMath, EveryGoldIsReadAndEqualsItself) {
  for (const char* name : {"math/dev.jsonl", "math/pool.jsonl"}) {
    const auto rows = shared_rows(name);
    if (rows.empty()) GTEST_SKIP() << name << " is not here";
    const auto math = make_reward("math", {});
    for (const auto& row : rows) {
      const nlohmann::json gold{{"answer", row["solution"]}};
      EXPECT_EQ(math->check_row(gold), "");
      const Sample sample{&gold, row["solution"], {}, false};
      EXPECT_EQ(math->judge({&sample, 1})[0].verdict, Verdict::right) << row["solution"];
    }
  }
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
  return text;
}

// The gold answer in other notations.
std::vector<std::string> notations(const std::string& gold) {
  std::vector<std::string> all{" " + gold + " ", "$" + gold + "$", gold + ".", replaced(gold, "\\dfrac", "\\frac"),
                               replaced(gold, "\\frac", "\\tfrac")};
  if (gold.find("\\left") == gold.npos) all.push_back(replaced(replaced(gold, "(", "\\left("), ")", "\\right)"));
  all.push_back(replaced(replaced(gold, "\\left", ""), "\\right", ""));
  for (const char* sign : {"+", "-", ",", "=", "\\cup", "\\pi", "\\sqrt"})
    if (gold.find("\\!") == gold.npos && gold.find("\\text") == gold.npos && gold.find("\\mbox") == gold.npos &&
        !(*sign == ',' && std::count(gold.begin(), gold.end(), ',') > 0 && gold.find_first_of("({[ ") == gold.npos))
      all.push_back(replaced(gold, sign, std::string(" ") + sign + " "));
  all.push_back(replaced(replaced(replaced(gold, "\\pi", "\u03c0"), "\\infty", "\u221e"), "\\cup", "\u222a"));
  all.push_back(replaced(gold, "\\!", ""));
  all.push_back(replaced(gold, "\\$", ""));
  all.push_back(replaced(gold, "^\\circ", "\u00b0"));
  int64_t top = 0, bottom = 0;
  char end = 0;
  if (std::sscanf(replaced(gold, "\\dfrac", "\\frac").c_str(), "\\frac{%ld}{%ld%c", &top, &bottom, &end) == 3 && end == '}' && gold.back() == '}' &&
      std::count(gold.begin(), gold.end(), '}') == 2) {
    all.push_back(fmt::format("{}/{}", top, bottom));
    all.push_back(fmt::format("\\frac{{{}}}{{{}}}", 3 * top, 3 * bottom));
    if (1000000 % bottom == 0) all.push_back(fmt::format("{:.6f}", static_cast<double>(top) / static_cast<double>(bottom)));
  }
  if (gold.find_first_not_of("0123456789") == gold.npos && gold.size() < 15) {
    all.push_back(gold + ".0");
    all.push_back(fmt::format("\\text{{{}}}", gold));
    all.push_back(gold + " \\text{ units}");
    all.push_back("x = " + gold);
    all.push_back(fmt::format("\\frac{{{}0}}{{10}}", gold));
  }
  return all;
}

// The gold answer with one thing changed: each digit, each kind of bracket, each sign.
std::vector<std::string> perturbed(const std::string& gold) {
  std::vector<std::string> all;
  for (size_t at = 0; at < gold.size(); ++at) {
    std::string other = gold;
    const bool unit_power = at > 0 && gold[at - 1] == '^' && at > 1 && gold[at - 2] == '}' && gold.find("text") != gold.npos;
    if (gold[at] >= '0' && gold[at] <= '9' && !unit_power && gold.find("mbox") == gold.npos)
      other[at] = gold[at] == '9' ? '1' : static_cast<char>(gold[at] + 1);
    if (gold[at] == '[' && gold.find(',') != gold.npos) other[at] = '(';
    if (gold[at] == '-' && at > 0 && gold.find("\\pm") == gold.npos) other[at] = '+';
    if (gold[at] == 'x') other[at] = 'z';
    if (other != gold) all.push_back(other);
  }
  return all;
}

TEST(MathOnMath, OtherNotationsAreEqualAndOtherAnswersAreNot) {
  const auto rows = shared_rows("math/dev.jsonl");
  if (rows.empty()) GTEST_SKIP() << "math/dev.jsonl is not here";
  const auto math = make_reward("math", {});
  int same = 0, other = 0;
  for (const auto& row : rows) {
    const std::string solution = row["solution"];
    const std::string gold(math::marked_answer(solution)->text);
    const nlohmann::json answer{{"answer", gold}};
    const auto judged = [&](const std::string& completion) {
      const Sample sample{&answer, completion, {}, false};
      return math->judge({&sample, 1})[0];
    };
    for (const std::string& text : notations(gold)) {
      for (const std::string& completion : {"So 7 it is: $\\boxed{" + text + "}$. Check: 1 = 1", "Thus\n#### " + text + "\n", "A: " + text}) {
        const Judgement result = judged(completion);
        EXPECT_EQ(result.verdict, Verdict::right) << completion << " for " << gold << ": " << result.detail;
        ++same;
      }
    }
    for (const std::string& text : perturbed(gold)) {
      EXPECT_NE(judged("\\boxed{" + text + "}").verdict, Verdict::right) << text << " for " << gold;
      ++other;
    }
  }
  EXPECT_GT(same, 30000);
  EXPECT_GT(other, 2400);
}

// What the gold answers read as: nearly all are expressions and structures of them; the rest are words.
TEST(MathOnMath, WordsAreFew) {
  int words = 0, all = 0;
  for (const char* name : {"math/dev.jsonl", "math/pool.jsonl"})
    for (const auto& row : shared_rows(name)) {
      const std::string solution = row["solution"];
      math::Steps steps;
      math::ParsedAnswer parsed;
      ASSERT_TRUE(math::parse_answer(math::cleaned(math::marked_answer(solution)->text), {}, steps, parsed));
      words += parsed.is_words;
      ++all;
    }
  if (all == 0) GTEST_SKIP() << "math/dev.jsonl is not here";
  EXPECT_EQ(all, 4000);
  EXPECT_EQ(words, 31);  // names, days, "odd", "ellipse", ...: read through by hand
}

}  // namespace
}  // namespace hone::rewards
