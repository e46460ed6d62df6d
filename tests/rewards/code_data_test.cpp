// The reward `code` on the programs that people measure code models with: canonical solutions pass, broken ones fail.
#include "code_support.h"
#include "judge_support.h"

namespace hone::rewards {
namespace {

std::unique_ptr<Reward> code_reward() { return make_reward("code", {}); }

/// How many of the judgements are right; the others' details go to the failure message.
void expect_verdicts(const std::vector<Judgement>& judged, const std::vector<nlohmann::json>& rows, Verdict wanted) {
  for (size_t i = 0; i < judged.size(); ++i) {
    EXPECT_EQ(judged[i].verdict, wanted) << "row " << i << " (" << rows[i]["task_id"] << "): " << judged[i].detail;
  }
}

TEST(CodeData, HumanEval) {
  NEEDS_ISOLATION();
  const auto rows = read_rows(shared_file("humaneval/humaneval_dev.jsonl"), 1000);
  if (rows.empty()) GTEST_SKIP() << "no " << shared_file("humaneval");
  std::vector<std::string> right, broken;
  for (const auto& row : rows) {
    const std::string prompt = row["prompt"], solution = row["canonical_solution"];
    // A base model's continuation, and a chat model's whole function in a block.
    right.push_back(right.size() % 2 == 0 ? solution : "Here it is:\n```python\n" + prompt + solution + "\n```\nDone.");
    broken.push_back("    return None\n");
  }
  const auto reward = code_reward();
  expect_verdicts(judge_all(*reward, rows, right), rows, Verdict::right);
  expect_verdicts(judge_all(*reward, rows, broken), rows, Verdict::wrong);
}

TEST(CodeData, Mbpp) {
  NEEDS_ISOLATION();
  const auto rows = read_rows(shared_file("mbpp/valid_511_600.jsonl"), 1000);
  if (rows.empty()) GTEST_SKIP() << "no " << shared_file("mbpp");
  std::vector<std::string> right, broken;
  for (const auto& row : rows) {
    right.push_back("```python\n" + row["code"].get<std::string>() + "\n```");
    broken.push_back("```python\n" + row["code"].get<std::string>() + "\nraise SystemExit(0)\n```");
  }
  const auto reward = code_reward();
  expect_verdicts(judge_all(*reward, rows, right), rows, Verdict::right);
  expect_verdicts(judge_all(*reward, rows, broken), rows, Verdict::wrong);
}

}  // namespace
}  // namespace hone::rewards
