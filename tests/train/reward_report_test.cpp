// Every figure of the reward-model report against values computed by hand (or, where said, with numpy/scipy).
#include "hone/train/reward_report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hone/base/rng.h"

namespace hone::train {
namespace {

ScoredPair pair(double chosen, double rejected, int64_t chosen_tokens = 10, int64_t rejected_tokens = 10, double margin = 0) {
  return {chosen, rejected, chosen_tokens, rejected_tokens, margin};
}

TEST(RewardReport, AccuracyCountsTiesHalfAndHasWilsonsInterval) {
  const std::vector<ScoredPair> pairs{pair(1, 0), pair(2, 0), pair(0, 0), pair(0, 1)};
  const Accuracy a = accuracy_of(pairs);
  EXPECT_EQ(a.pairs, 4);
  EXPECT_DOUBLE_EQ(a.share.value, 0.625);
  // z^2 = 3.841458820694124; centre (0.625 + z^2/8) / (1 + z^2/4), half z/(1+z^2/4) sqrt(0.625*0.375/4 + z^2/64)
  EXPECT_NEAR(a.share.low, 0.2194265, 1e-6);
  EXPECT_NEAR(a.share.high, 0.9081008, 1e-6);
  // All right: the upper end is 1 and the lower n / (n + z^2).
  const std::vector<ScoredPair> right(10, pair(1, 0));
  EXPECT_DOUBLE_EQ(accuracy_of(right).share.high, 1.0);
  EXPECT_NEAR(accuracy_of(right).share.low, 10 / (10 + 3.841458820694124), 1e-12);
  const Accuracy none = accuracy_of({});
  EXPECT_EQ(none.pairs, 0);
  EXPECT_TRUE(std::isnan(none.share.value) && std::isnan(none.share.low) && std::isnan(none.share.high));
}

TEST(RewardReport, MeanHasTheNormalInterval) {
  const std::vector<double> values{1, 2, 6};
  const Estimate e = mean_of(values);
  EXPECT_DOUBLE_EQ(e.value, 3.0);
  EXPECT_NEAR(e.high - e.value, 1.959963984540054 * std::sqrt(7.0 / 3.0), 1e-12);  // variance (4 + 1 + 9) / 2
  EXPECT_NEAR(e.value - e.low, e.high - e.value, 1e-12);
  const std::vector<double> one{4};
  EXPECT_DOUBLE_EQ(mean_of(one).value, 4.0);
  EXPECT_TRUE(std::isnan(mean_of(one).low));
}

TEST(RewardReport, DistributionIsNumpys) {
  const std::vector<double> values{4, 1, 3, 2};
  const Distribution d = distribution_of(values);
  EXPECT_DOUBLE_EQ(d.mean, 2.5);
  EXPECT_NEAR(d.deviation, std::sqrt(5.0 / 3.0), 1e-12);
  EXPECT_DOUBLE_EQ(d.least, 1);
  EXPECT_DOUBLE_EQ(d.greatest, 4);
  const double wanted[] = {1.15, 1.75, 2.5, 3.25, 3.85};  // numpy.quantile
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(d.quantiles[i], wanted[i], 1e-12) << i;
}

TEST(RewardReport, CalibrationFoldsTheTwoOrdersOfAPair) {
  // log 3 gives a confidence of 3/4. Three right of four at 3/4: calibrated to the bit of the arithmetic.
  const double l = std::log(3.0);
  std::vector<ScoredPair> pairs{pair(l, 0), pair(l + 1, 1), pair(l, 0), pair(0, l)};
  Calibration c = calibration_of(pairs, 1);
  ASSERT_EQ(c.bins.size(), 4u);  // not more bins than pairs
  EXPECT_NEAR(c.overconfidence, 0.0, 1e-12);
  EXPECT_NEAR(c.error.value, 0.375, 1e-12);  // bins of one pair: |1 - 3/4| three times, |0 - 3/4| once, over 4
  // Forty of the same: ten bins of four; the order of the rows decides, here every bin has three right.
  std::vector<ScoredPair> many;
  for (int i = 0; i < 10; ++i) many.insert(many.end(), pairs.begin(), pairs.end());
  c = calibration_of(many, 1);
  ASSERT_EQ(c.bins.size(), 10u);
  for (const Bin& bin : c.bins) {
    EXPECT_EQ(bin.pairs, 4);
    EXPECT_NEAR(bin.confidence, 0.75, 1e-12);
    EXPECT_DOUBLE_EQ(bin.accuracy, 0.75);
  }
  EXPECT_NEAR(c.error.value, 0.0, 1e-12);
  // A tie is certain of nothing and half right.
  const std::vector<ScoredPair> ties(3, pair(0.5, 0.5));
  c = calibration_of(ties, 1);
  EXPECT_DOUBLE_EQ(c.bins[0].confidence, 0.5);
  EXPECT_DOUBLE_EQ(c.bins[0].accuracy, 0.5);
  EXPECT_DOUBLE_EQ(c.error.value, 0.0);
  // Very sure and always wrong.
  const std::vector<ScoredPair> wrong(5, pair(-400, 400));
  c = calibration_of(wrong, 1);
  EXPECT_DOUBLE_EQ(c.error.value, 1.0);
  EXPECT_DOUBLE_EQ(c.overconfidence, 1.0);
}

TEST(RewardReport, BinsHaveEqualCountsInTheOrderOfConfidence) {
  std::vector<ScoredPair> pairs;
  for (int i = 0; i < 23; ++i) pairs.push_back(pair(0.1 * ((i * 7) % 23), 0));  // 0, 0.1, ... 2.2 in another order
  const Calibration c = calibration_of(pairs, 1);
  ASSERT_EQ(c.bins.size(), 10u);
  int64_t total = 0;
  for (size_t b = 0; b < 10; ++b) {
    EXPECT_TRUE(c.bins[b].pairs == 2 || c.bins[b].pairs == 3);
    total += c.bins[b].pairs;
    if (b > 0) {
      EXPECT_GT(c.bins[b].confidence, c.bins[b - 1].confidence);
    }
  }
  EXPECT_EQ(total, 23);
}

// A model that says what is true: pairs drawn with probability sigmoid(d) have an error near 0 and an interval that is small; one whose
// scores are three times too large is overconfident.
TEST(RewardReport, CalibrationErrorTellsScaledScores) {
  std::vector<ScoredPair> honest, loud;
  for (uint32_t i = 0; i < 2000; ++i) {
    const double d = 3 * random_unit(7, Purpose::test, i, 0, 0), p = 1 / (1 + std::exp(-d));
    const double sign = random_unit(7, Purpose::test, i, 1, 0) < p ? 1 : -1;
    honest.push_back(pair(sign * d, 0));
    loud.push_back(pair(3 * sign * d, 0));
  }
  const Calibration a = calibration_of(honest, 3), b = calibration_of(loud, 3);
  EXPECT_LT(a.error.value, 0.04);  // sampling alone: sqrt(0.2 / 200) = 0.03 a bin, mean of its size 0.025
  EXPECT_NEAR(a.overconfidence, 0.0, 0.03);
  EXPECT_GT(b.error.value, 0.1);
  EXPECT_GT(b.error.low, a.error.high);
  EXPECT_GT(b.overconfidence, 0.1);
  EXPECT_LE(b.error.low, b.error.value);
  EXPECT_GE(b.error.high, b.error.value);
  // The same seed gives the same bits, another one another interval of the same figure.
  const Calibration again = calibration_of(loud, 3), other = calibration_of(loud, 4);
  EXPECT_EQ(again.error.low, b.error.low);
  EXPECT_EQ(again.error.high, b.error.high);
  EXPECT_EQ(other.error.value, b.error.value);
  EXPECT_NE(other.error.low, b.error.low);
}

TEST(RewardReport, LengthCorrelationsAndSplits) {
  // Scores 1 2 3 4 against lengths 10 20 30 100: Pearson 0.87..., Spearman 1.
  const std::vector<ScoredPair> pairs{pair(2, 1, 20, 10), pair(4, 3, 100, 30)};
  const LengthBias bias = length_bias_of(pairs, 0);
  // mean 2.5 and 40: xy = 1.5*30 + 0.5*20 - 0.5*10 + 1.5*60 = 140, xx = 5, yy = 900 + 400 + 100 + 3600 = 5000
  EXPECT_NEAR(bias.pearson.value, 140 / std::sqrt(5.0 * 5000.0), 1e-12);
  EXPECT_NEAR(bias.spearman.value, 1.0, 1e-12);
  EXPECT_EQ(bias.matched.pairs, 0);
  EXPECT_EQ(bias.chosen_longer.pairs, 2);
  EXPECT_EQ(bias.chosen_shorter.pairs, 0);
  EXPECT_DOUBLE_EQ(bias.longer_is_chosen, 1.0);
}

TEST(RewardReport, LengthMatchedIsWithinTenPercentOfTheLonger) {
  const std::vector<ScoredPair> pairs{pair(1, 0, 90, 100), pair(1, 0, 89, 100), pair(0, 1, 100, 100), pair(1, 0, 100, 90)};
  const LengthBias bias = length_bias_of(pairs, 0);
  EXPECT_EQ(bias.matched.pairs, 3);
  EXPECT_NEAR(bias.matched.share.value, 2.0 / 3.0, 1e-12);
  EXPECT_EQ(bias.chosen_shorter.pairs, 2);
  EXPECT_DOUBLE_EQ(bias.chosen_shorter.share.value, 1.0);
  EXPECT_EQ(bias.chosen_longer.pairs, 1);
  EXPECT_DOUBLE_EQ(bias.longer_is_chosen, 0.375);  // one of four, and half of the equal one
}

TEST(RewardReport, SpearmanSharesRanksOfTies) {
  // scores 1 1 2 3 -> ranks 1.5 1.5 3 4; lengths 5 6 7 7 -> 1 2 3.5 3.5: Pearson of the ranks 4 / 4.5
  const std::vector<ScoredPair> pairs{pair(1, 1, 5, 6), pair(2, 3, 7, 7)};
  EXPECT_NEAR(length_bias_of(pairs, 0).spearman.value, 4 / 4.5, 1e-12);
}

TEST(RewardReport, CorrelationWithoutSpreadIsUndefined) {
  const std::vector<ScoredPair> flat{pair(1, 1, 5, 9), pair(1, 1, 3, 4)}, same{pair(1, 2, 5, 5), pair(3, 0, 5, 5)};
  EXPECT_TRUE(std::isnan(length_bias_of(flat, 0).pearson.value));
  EXPECT_TRUE(std::isnan(length_bias_of(same, 0).spearman.value));
  const RewardReport report = reward_report(flat);
  EXPECT_TRUE(to_json(report)["eval_length/pearson"].dump() == "null");
  EXPECT_EQ(report.ties, 2);
}

TEST(RewardReport, LengthIntervalHoldsTheCorrelationThatThereIs) {
  std::vector<ScoredPair> pairs;
  for (uint32_t i = 0; i < 300; ++i) {
    const auto noise = [&](uint32_t k) { return random_unit(5, Purpose::test, i, k, 0) - 0.5; };
    const int64_t a = 20 + static_cast<int64_t>(100 * (noise(0) + 0.5)), b = 20 + static_cast<int64_t>(100 * (noise(1) + 0.5));
    pairs.push_back(pair(0.02 * static_cast<double>(a) + noise(2), 0.02 * static_cast<double>(b) + noise(3), a, b));
  }
  const LengthBias bias = length_bias_of(pairs, 0);
  for (const Estimate& e : {bias.pearson, bias.spearman}) {
    EXPECT_GT(e.value, 0.8);  // standard deviations 0.58 of length's part, 0.29 of noise: 0.894
    EXPECT_LT(e.low, e.value);
    EXPECT_GT(e.high, e.value);
    EXPECT_LT(e.high - e.low, 0.06);
  }
}

TEST(RewardReport, LossAndMarginsOfTheWholeReport) {
  const std::vector<ScoredPair> pairs{pair(1, 0, 10, 10, 1), pair(0, 0, 10, 10, 0), pair(-800, 800, 10, 10, 0.5), pair(900, 0, 10, 10, 0)};
  const RewardReport r = reward_report(pairs);
  // -log sigmoid(0) twice, -log sigmoid(-1600.5) = 1600.5, -log sigmoid(900) = 0
  EXPECT_NEAR(r.loss.value, (2 * std::log(2.0) + 1600.5) / 4, 1e-12);
  EXPECT_DOUBLE_EQ(r.chosen_mean.value, 25.25);
  EXPECT_DOUBLE_EQ(r.rejected_mean.value, 200);
  EXPECT_DOUBLE_EQ(r.margin_mean.value, -174.75);
  EXPECT_EQ(r.ties, 1);
  // differences 1 0 -1600 900 and margins 1 0 0.5 0, by numpy.corrcoef
  EXPECT_NEAR(r.margin_correlation, -0.3592848, 1e-6);
  EXPECT_TRUE(std::isnan(reward_report(std::vector<ScoredPair>{pair(1, 0), pair(2, 0)}).margin_correlation));
}

TEST(RewardReport, JsonHasTheContractsKeys) {
  const std::vector<ScoredPair> pairs{pair(1, 0, 4, 9), pair(0, 1, 9, 4), pair(2, 1, 5, 5)};
  const Json json = to_json(reward_report(pairs));
  for (const char* key : {"eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_calibration/error", "eval_length/pearson",
                          "eval_length/spearman", "eval_length/accuracy_matched"})
    for (const char* end : {"", "_low", "_high"}) EXPECT_TRUE(json.contains(std::string(key) + end)) << key << end;
  EXPECT_EQ(json["rows"], 3);
  EXPECT_EQ(json["eval_rewards/ties"], 0);
  EXPECT_NEAR(json["eval_rewards/accuracies"].get<double>(), 2.0 / 3.0, 1e-12);
  EXPECT_EQ(json["reliability"].size(), 3u);
  EXPECT_DOUBLE_EQ(json["distributions"]["margins"]["q50"].get<double>(), 1.0);
  EXPECT_EQ(Json::parse(json.dump()).size(), json.size());
}

TEST(RewardReport, TextSaysWhatStandsOut) {
  EXPECT_NE(to_text(reward_report(std::vector<ScoredPair>(40, pair(0, 1)))).find("worse than chance"), std::string::npos);
  std::vector<ScoredPair> by_length, honest;
  for (int i = 0; i < 40; ++i) {
    by_length.push_back(i % 4 == 0 ? pair(10, 40, 10, 40) : pair(40, 10, 40, 10));
    honest.push_back(i % 2 == 0 ? pair(1, 0, 10, 40) : pair(1, 0, 40, 10));
  }
  const std::string text = to_text(reward_report(by_length));
  EXPECT_NE(text.find("follows length"), std::string::npos);
  EXPECT_NE(text.find("take the longer one\" is right on 75.0 %"), std::string::npos);
  EXPECT_NE(to_text(reward_report(std::vector<ScoredPair>(40, pair(1, 1)))).find("40 of 40 pairs are ties"), std::string::npos);
  EXPECT_EQ(to_text(reward_report(honest)).find("! "), std::string::npos);
  EXPECT_NE(to_text(reward_report({})).find("0 held-out pairs"), std::string::npos);
}

}  // namespace
}  // namespace hone::train
