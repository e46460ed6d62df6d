#pragma once
// What a reward model is worth, from its scores of held-out pairs: pure functions, no model and no files. docs/reward_model.md explains how to
// read it.
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hone/train/metrics.h"

namespace hone::train {

/// A held-out pair: the two scores, and what the completions have in tokens (prompt not counted, end-of-turn token counted).
struct ScoredPair {
  double chosen = 0, rejected = 0;
  int64_t chosen_tokens = 0, rejected_tokens = 0;
  double margin = 0;  // of the row; 0 where it has none
  double difference() const { return chosen - rejected; }
};

/// A figure with its 95 % interval. NaN where it is not defined (no pairs, no spread); JSON null.
struct Estimate {
  double value, low, high;
};

/// Share of pairs that the scores order as the labels do; a tie counts half. Wilson's interval (1927): pairs are the units that were drawn, one a
/// row, and unlike the normal interval it stays within [0, 1] and keeps its coverage near 1, where good reward models are. Pairs that share a
/// prompt are not independent: with many of those it is too narrow.
struct Accuracy {
  Estimate share;
  int64_t pairs = 0;
};
Accuracy accuracy_of(std::span<const ScoredPair> pairs);

/// The mean with the normal interval.
Estimate mean_of(std::span<const double> values);

/// One bin of the reliability curve: pairs of like confidence, the mean of that confidence and the share that was right.
struct Bin {
  int64_t pairs = 0;
  double confidence = 0, accuracy = 0;
};

/// Calibration of sigmoid(r_c - r_r) as the probability that chosen is preferred. In the data chosen always is, so the curve is taken over the
/// symmetric question "is the side with the higher score the preferred one?": confidence sigmoid(|r_c - r_r|), right where r_c > r_r, half
/// right on a tie. That is what one gets from every pair put in both orders, folded at 1/2.
struct Calibration {
  std::vector<Bin> bins;  // at most 10, with equal counts (to within one), by confidence
  Estimate error;         // expected calibration error: sum of count/n |accuracy - confidence|; interval by bootstrap over pairs
  double overconfidence;  // mean confidence - accuracy: positive says that differences of scores are too large
};
Calibration calibration_of(std::span<const ScoredPair> pairs, uint64_t seed);

/// Does length buy score? Correlations over all completions, with intervals by bootstrap over pairs (the two sides of a pair are not
/// independent); accuracy where length cannot help, and where following it would be wrong or right.
struct LengthBias {
  Estimate pearson, spearman;
  Accuracy matched;  // lengths within 10 % of the longer
  Accuracy chosen_shorter, chosen_longer;
  double longer_is_chosen;  // accuracy of the rule "take the longer one" (a tie counts half): the model has to beat it
};
LengthBias length_bias_of(std::span<const ScoredPair> pairs, uint64_t seed);

/// Quantiles are interpolated between order statistics (numpy's default).
struct Distribution {
  double mean, deviation, least, greatest;
  std::array<double, 5> quantiles;  // 5, 25, 50, 75, 95 %
};
Distribution distribution_of(std::span<const double> values);

struct RewardReport {
  int64_t pairs = 0, ties = 0;
  Estimate loss;  // mean of -log sigmoid(r_c - r_r - margin)
  Accuracy accuracy;
  Estimate chosen_mean, rejected_mean, margin_mean;
  Calibration calibration;
  LengthBias length;
  Distribution chosen, rejected, margins;  // margins: r_c - r_r
  double margin_correlation;               // Pearson of r_c - r_r with the rows' margins; NaN where they do not vary
};

/// The whole report. Scores must be finite. `seed` is that of the bootstrap.
RewardReport reward_report(std::span<const ScoredPair> pairs, uint64_t seed = 0);

/// Flat keys with _low and _high for the figures, objects for curve and distributions.
Json to_json(const RewardReport& report);
/// The same for people, with what stands out said in words.
std::string to_text(const RewardReport& report);

}  // namespace hone::train
