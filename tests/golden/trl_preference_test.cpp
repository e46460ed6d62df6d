// The tokens of preference rows beside those of TRL 1.16's DPOTrainer (make_trl_preference.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "train/preference_support.h"

namespace hone {
namespace trl_preference_test {

TEST(TrlPreference, TokensAreTrls) {
  test::PreferenceFiles files;
  const std::filesystem::path folder = std::filesystem::path(HONE_SOURCE_DIR) / "tests/golden/trl_preference";
  const train::PairData ours = files.pairs(read_text(folder / "rows.jsonl"));
  std::ifstream file(folder / "tokens.jsonl");
  std::string line;
  size_t at = 0;
  for (; std::getline(file, line); ++at) {
    const auto theirs = nlohmann::json::parse(line);
    ASSERT_LT(at, ours.rows.size());
    for (const auto& [name, row] : {std::pair("chosen_ids", ours.rows[at].chosen), std::pair("rejected_ids", ours.rows[at].rejected)}) {
      auto wanted = theirs.at("prompt_ids").get<std::vector<int32_t>>();
      EXPECT_EQ(row.prompt_length, static_cast<int32_t>(wanted.size())) << name << " of row " << at;
      const auto completion = theirs.at(name).get<std::vector<int32_t>>();
      const auto end = std::find(completion.begin(), completion.end(), files.tokenizer.eos_id());
      ASSERT_NE(end, completion.end());
      // Our departure: TRL keeps (and trains) what the template writes behind the end-of-turn token, a newline.
      EXPECT_LE(completion.end() - end, 2);
      wanted.insert(wanted.end(), completion.begin(), end + 1);
      EXPECT_THAT(row.ids, testing::ElementsAreArray(wanted)) << name << " of row " << at;
      for (size_t t = 0; t < row.ids.size(); ++t) EXPECT_EQ(row.weights[t], t < static_cast<size_t>(row.prompt_length) ? 0 : 1) << t;
    }
  }
  EXPECT_EQ(at, ours.rows.size());
}

}  // namespace trl_preference_test
}  // namespace hone
