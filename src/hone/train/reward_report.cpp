#include "hone/train/reward_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hone/base/error.h"
#include "hone/base/rng.h"
#include "hone/kernels/kernels.h"

namespace hone::train {
namespace {

constexpr double kZ = 1.959963984540054;  // of 95 %
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr Estimate kUndefined{kNaN, kNaN, kNaN};
constexpr size_t kBins = 10;
constexpr double kMatched = 0.1;  // lengths within this share of the longer are alike

enum Stream : uint32_t { calibration_stream = 0, length_stream = 1 };

double sigmoid(double x) { return 1.0 / (1.0 + kernels::exact_exp(-x)); }

double right(double difference) { return difference > 0 ? 1.0 : difference == 0 ? 0.5 : 0.0; }

std::vector<double> differences(std::span<const ScoredPair> pairs) {
  std::vector<double> d;
  for (const ScoredPair& p : pairs) d.push_back(p.difference());
  return d;
}

// Interpolated, of sorted values.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// The percentile interval of `statistic`, which gets how often each of n pairs was drawn. Fewer replicates where there are many pairs: the
// interval of a figure that hardly varies needs none of them.
template <class Statistic>
std::pair<double, double> bootstrap(size_t n, uint64_t seed, Stream stream, const Statistic& statistic) {
  if (n < 2) return {kNaN, kNaN};
  const size_t replicates = std::clamp<size_t>(20'000'000 / n, 200, 1000);
  std::vector<double> values;
  std::vector<int64_t> drawn(n);
  for (size_t b = 0; b < replicates; ++b) {
    std::fill(drawn.begin(), drawn.end(), 0);
    for (size_t i = 0; i < n; ++i) ++drawn[random_bits(seed, Purpose::bootstrap, stream, static_cast<uint32_t>(b), static_cast<uint32_t>(i)) % n];
    if (const double value = statistic(drawn); std::isfinite(value)) values.push_back(value);  // a draw of one pair only has no spread
  }
  if (values.size() < replicates / 2) return {kNaN, kNaN};
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.025), quantile(values, 0.975)};
}

// ---- calibration ------------------------------------------------------------------------------------------------------------------------
struct Judged {
  double confidence, right;
};

// Bins of equal count of pairs that are sorted by confidence; `drawn` says how often each counts.
std::vector<Bin> bins_of(const std::vector<Judged>& sorted, const std::vector<int64_t>& drawn) {
  const int64_t n = std::accumulate(drawn.begin(), drawn.end(), int64_t{0});
  std::vector<Bin> bins(std::min<size_t>(kBins, static_cast<size_t>(n)));
  const auto count = static_cast<int64_t>(bins.size());
  int64_t seen = 0;
  for (size_t i = 0; i < sorted.size(); ++i)
    for (int64_t left = drawn[i]; left > 0; --left, ++seen) {
      Bin& bin = bins[seen * count / n];
      ++bin.pairs;
      bin.confidence += sorted[i].confidence;
      bin.accuracy += sorted[i].right;
    }
  for (Bin& bin : bins) bin.confidence /= static_cast<double>(bin.pairs), bin.accuracy /= static_cast<double>(bin.pairs);
  return bins;
}

double calibration_error(const std::vector<Bin>& bins) {
  double sum = 0, pairs = 0;
  for (const Bin& bin : bins) {
    sum += static_cast<double>(bin.pairs) * std::abs(bin.accuracy - bin.confidence);
    pairs += static_cast<double>(bin.pairs);
  }
  return sum / pairs;
}

// ---- correlation -------------------------------------------------------------------------------------------------------------------------
// Weighted Pearson correlation; NaN without spread.
double pearson(std::span<const double> x, std::span<const double> y, std::span<const double> weights) {
  double total = 0, mean_x = 0, mean_y = 0, xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) total += weights[i], mean_x += weights[i] * x[i], mean_y += weights[i] * y[i];
  mean_x /= total, mean_y /= total;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - mean_x, dy = y[i] - mean_y;
    xx += weights[i] * dx * dx, yy += weights[i] * dy * dy, xy += weights[i] * dx * dy;
  }
  return xx > 0 && yy > 0 ? std::clamp(xy / std::sqrt(xx * yy), -1.0, 1.0) : kNaN;
}

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> rank(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) rank[order[i]] = 0.5 * static_cast<double>(begin + 1 + end);
  }
  return rank;
}

// Values 2i and 2i + 1 belong to pair i. Spearman's replicates keep the ranks of the whole sample.
Estimate correlation(std::span<const double> x, std::span<const double> y, uint64_t seed) {
  std::vector<double> weights(x.size(), 1.0);
  const double value = x.empty() ? kNaN : pearson(x, y, weights);
  if (!std::isfinite(value)) return kUndefined;
  const auto [low, high] = bootstrap(x.size() / 2, seed, length_stream, [&](const std::vector<int64_t>& drawn) {
    for (size_t i = 0; i < x.size(); ++i) weights[i] = static_cast<double>(drawn[i / 2]);
    return pearson(x, y, weights);
  });
  return {value, low, high};
}

}  // namespace

Accuracy accuracy_of(std::span<const ScoredPair> pairs) {
  Accuracy a{kUndefined, static_cast<int64_t>(pairs.size())};
  if (pairs.empty()) return a;
  double sum = 0;
  for (const ScoredPair& p : pairs) sum += right(p.difference());
  const auto n = static_cast<double>(pairs.size());
  const double share = sum / n, widened = 1 + kZ * kZ / n, centre = (share + kZ * kZ / (2 * n)) / widened;
  const double half = kZ / widened * std::sqrt(share * (1 - share) / n + kZ * kZ / (4 * n * n));
  a.share = {share, std::max(0.0, centre - half), std::min(1.0, centre + half)};
  return a;
}

Estimate mean_of(std::span<const double> values) {
  if (values.empty()) return kUndefined;
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double v : values) sum += v;
  const double mean = sum / n;
  if (values.size() < 2) return {mean, kNaN, kNaN};
  for (double v : values) squares += (v - mean) * (v - mean);
  const double half = kZ * std::sqrt(squares / (n - 1) / n);
  return {mean, mean - half, mean + half};
}

Calibration calibration_of(std::span<const ScoredPair> pairs, uint64_t seed) {
  Calibration c{{}, kUndefined, kNaN};
  if (pairs.empty()) return c;
  std::vector<Judged> judged;
  for (const ScoredPair& p : pairs) judged.push_back({sigmoid(std::abs(p.difference())), right(p.difference())});
  // Equal confidences keep the order of the rows: only then is a bin's border arbitrary, and it is always the same.
  std::stable_sort(judged.begin(), judged.end(), [](const Judged& a, const Judged& b) { return a.confidence < b.confidence; });
  c.bins = bins_of(judged, std::vector<int64_t>(judged.size(), 1));
  const auto [low, high] = bootstrap(judged.size(), seed, calibration_stream,
                                     [&](const std::vector<int64_t>& drawn) { return calibration_error(bins_of(judged, drawn)); });
  c.error = {calibration_error(c.bins), low, high};
  double gap = 0;
  for (const Judged& j : judged) gap += j.confidence - j.right;
  c.overconfidence = gap / static_cast<double>(judged.size());
  return c;
}

LengthBias length_bias_of(std::span<const ScoredPair> pairs, uint64_t seed) {
  std::vector<double> scores, lengths;
  std::vector<ScoredPair> matched, shorter, longer;
  double longer_right = 0;
  for (const ScoredPair& p : pairs) {
    scores.insert(scores.end(), {p.chosen, p.rejected});
    lengths.insert(lengths.end(), {static_cast<double>(p.chosen_tokens), static_cast<double>(p.rejected_tokens)});
    const auto more = static_cast<double>(p.chosen_tokens - p.rejected_tokens);
    longer_right += right(more);
    if (std::abs(more) <= kMatched * static_cast<double>(std::max(p.chosen_tokens, p.rejected_tokens))) matched.push_back(p);
    if (more < 0) shorter.push_back(p);
    if (more > 0) longer.push_back(p);
  }
  return {correlation(scores, lengths, seed),
          correlation(ranks(scores), ranks(lengths), seed),
          accuracy_of(matched),
          accuracy_of(shorter),
          accuracy_of(longer),
          pairs.empty() ? kNaN : longer_right / static_cast<double>(pairs.size())};
}

Distribution distribution_of(std::span<const double> values) {
  if (values.empty()) return {kNaN, kNaN, kNaN, kNaN, {kNaN, kNaN, kNaN, kNaN, kNaN}};
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  const auto n = static_cast<double>(sorted.size());
  const double mean = mean_of(values).value;
  double squares = 0;
  for (double v : values) squares += (v - mean) * (v - mean);
  Distribution d{mean, sorted.size() < 2 ? kNaN : std::sqrt(squares / (n - 1)), sorted.front(), sorted.back(), {}};
  const double shares[] = {0.05, 0.25, 0.5, 0.75, 0.95};
  for (size_t i = 0; i < d.quantiles.size(); ++i) d.quantiles[i] = quantile(sorted, shares[i]);
  return d;
}

RewardReport reward_report(std::span<const ScoredPair> pairs, uint64_t seed) {
  std::vector<double> chosen, rejected, losses, margins;
  for (const ScoredPair& p : pairs) {
    check(std::isfinite(p.chosen) && std::isfinite(p.rejected), "reward_report: a score is not finite");
    chosen.push_back(p.chosen);
    rejected.push_back(p.rejected);
    margins.push_back(p.margin);
    const double z = p.difference() - p.margin;
    losses.push_back(std::max(-z, 0.0) + kernels::exact_log(1.0 + kernels::exact_exp(-std::abs(z))));
  }
  const std::vector<double> d = differences(pairs), ones(d.size(), 1.0);
  RewardReport r{};
  r.pairs = static_cast<int64_t>(pairs.size());
  r.ties = std::count(d.begin(), d.end(), 0.0);
  r.loss = mean_of(losses);
  r.accuracy = accuracy_of(pairs);
  r.chosen_mean = mean_of(chosen);
  r.rejected_mean = mean_of(rejected);
  r.margin_mean = mean_of(d);
  r.calibration = calibration_of(pairs, seed);
  r.length = length_bias_of(pairs, seed);
  r.chosen = distribution_of(chosen);
  r.rejected = distribution_of(rejected);
  r.margins = distribution_of(d);
  r.margin_correlation = d.empty() ? kNaN : pearson(d, margins, ones);
  return r;
}

}  // namespace hone::train
