// math on the real data: GSM8K's labelled solutions, MATH's gold answers.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "hone/rewards/math_answer.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

std::vector<nlohmann::json> shared_rows(const std::string& name) {
  const char* folder = std::getenv("HONE_SHARED");
  const std::filesystem::path path = std::filesystem::path(folder ? folder : HONE_SOURCE_DIR "/../shared") / "data" / name;
  std::vector<nlohmann::json> rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

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

}  // namespace
}  // namespace hone::rewards
