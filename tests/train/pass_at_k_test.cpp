#include "hone/train/pass_at_k.h"

#include <gtest/gtest.h>

#include <random>

namespace hone::train {
namespace {

TEST(PassAtK, IsTheShareOfSubsetsWithARightOne) {
  // All subsets of k out of n, counted.
  for (int n = 1; n <= 7; ++n)
    for (int right = 0; right <= n; ++right)
      for (int k = 1; k <= n; ++k) {
        int subsets = 0, with = 0;
        for (unsigned mask = 0; mask < 1u << n; ++mask) {
          if (__builtin_popcount(mask) != k) continue;
          ++subsets;
          with += (mask & ((1u << right) - 1)) != 0;
        }
        EXPECT_NEAR(pass_at_k(n, right, k), static_cast<double>(with) / subsets, 1e-12) << n << " " << right << " " << k;
      }
  EXPECT_EQ(pass_at_k(8, 0, 8), 0.0);
  EXPECT_EQ(pass_at_k(8, 1, 8), 1.0);
}

TEST(AnswerKey, ReadsTheAnswerAsVotesAreCounted) {
  EXPECT_EQ(answer_key("so 3 + 4 = 7.\nThe answer is 7.\n#### 7"), "7");
  EXPECT_EQ(answer_key("thus \\boxed{\\frac{1}{2}} and 3"), "\\frac{1}{2}");
  EXPECT_EQ(answer_key("#### 1,234 "), "1234");
  EXPECT_EQ(answer_key("It costs 12 dollars."), "12");
  EXPECT_EQ(answer_key("no idea\nyes\n"), "yes");
  EXPECT_EQ(answer_key(""), "");
}

TEST(Majority, TakesTheMostFrequentAnswer) {
  const std::vector<std::string> keys{"3", "4", "4", "", ""};
  const bool right[] = {true, false, false, true, true};
  EXPECT_FALSE(majority_right(keys, right));
  const bool other[] = {false, true, true, false, false};
  EXPECT_TRUE(majority_right(keys, other));
  const std::vector<std::string> tie{"9", "8"};
  const bool first[] = {true, false};
  EXPECT_TRUE(majority_right(tie, first));
  const std::vector<std::string> none{"", ""};
  EXPECT_FALSE(majority_right(none, first));
}

TEST(Bootstrap, CoversTheMeanAsOftenAsItSays) {
  // 200 samples of 60 coins with p = 0.3: of a 95 % interval of proportions about 93 % cover p (it is a little narrow); 3 deviations below is 0.88.
  std::mt19937 rng(7);
  int covered = 0;
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> values(60);
    for (double& v : values) v = std::bernoulli_distribution(0.3)(rng);
    const Estimate e = bootstrap_mean(values, static_cast<uint64_t>(trial), 400);
    EXPECT_LE(e.low, e.value);
    EXPECT_GE(e.high, e.value);
    covered += e.low <= 0.3 && 0.3 <= e.high;
  }
  EXPECT_GE(covered, 176);
  const double one[] = {0.5};
  EXPECT_EQ(bootstrap_mean(one, 0).low, 0.5);
}

}  // namespace
}  // namespace hone::train
