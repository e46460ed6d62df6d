// The sampling law: draws against the exact distribution for every option, the three log-probabilities, and the noise that close models share.
#include "hone/rollout/law.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "hone/base/rng.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"

namespace hone::rollout {
namespace {

constexpr int kDraws = 4000;
constexpr double kFalseAlarm = 4.75;  // deviations of a normal: one test in a million would fail for another seed

std::vector<float> logits_of(int64_t count, double spread, uint64_t seed) {
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; ++i) {
    double sum = -6;  // of twelve uniforms: normal enough
    for (uint32_t j = 0; j < 12; ++j) sum += random_unit(seed, Purpose::test, static_cast<uint32_t>(i), j, 0);
    x[i] = static_cast<float>(spread * sum);
  }
  return x;
}

/// The law written out in float64, by sorting: transformers' TemperatureLogitsWarper, TopK, TopP, MinP in their order.
std::vector<double> exact_law(const std::vector<float>& logits, const SamplingLaw& law) {
  const size_t V = logits.size();
  std::vector<size_t> order(V);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  size_t keep = law.top_k > 0 ? std::min<size_t>(law.top_k, V) : V;
  std::vector<double> p(V, 0.0);
  const auto weight = [&](size_t i) { return std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / law.temperature); };
  double total = 0, mass = 0;
  for (size_t i = 0; i < keep; ++i) total += weight(i);
  if (law.top_p < 1) {
    size_t n = 0;
    while (n < keep && mass < law.top_p * total) mass += weight(n++);
    keep = n;
  }
  while (keep > 1 && weight(keep - 1) < law.min_p) --keep;
  total = 0;
  for (size_t i = 0; i < keep; ++i) total += weight(i);
  for (size_t i = 0; i < keep; ++i) p[order[i]] = weight(i) / total;
  return p;
}

std::vector<Choice> draw(const std::vector<float>& logits, const SamplingLaw& law, int count, uint64_t seed = 7) {
  const auto V = static_cast<int64_t>(logits.size());
  constexpr int kAtOnce = 50;
  std::vector<float> rows;
  for (int i = 0; i < kAtOnce; ++i) rows.insert(rows.end(), logits.begin(), logits.end());
  std::vector<Choice> choices(count);
  Chooser chooser(law, seed, V);
  for (int i = 0; i < count; i += kAtOnce) {
    std::vector<DrawKey> keys;
    for (int j = 0; j < kAtOnce; ++j) keys.push_back({static_cast<uint32_t>(i + j), 2, 3});
    chooser.choose(rows.data(), keys, choices.data() + i);
  }
  return choices;
}

/// Pearson's chi-square, cells with an expectation below 8 pooled; compared with the normal deviation of Wilson and Hilferty (1931).
double deviation(const std::vector<double>& p, const std::vector<Choice>& choices) {
  std::vector<double> seen(p.size(), 0);
  for (const Choice& c : choices) ++seen[c.token];
  const auto n = static_cast<double>(choices.size());
  double chi = 0, pooled = 0, pooled_seen = 0;
  int cells = -1;
  const auto cell = [&](double expected, double observed) {
    chi += (observed - expected) * (observed - expected) / expected;
    ++cells;
  };
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0 && seen[i] > 0) return 1e9;
    if (n * p[i] >= 8) {
      cell(n * p[i], seen[i]);
    } else {
      pooled += n * p[i];
      pooled_seen += seen[i];
    }
  }
  if (pooled > 0) cell(pooled, pooled_seen);
  if (cells < 1) return chi;
  const double k = cells, h = 2 / (9 * k);
  return (std::cbrt(chi / k) - (1 - h)) / std::sqrt(h);
}

TEST(SamplingLaw, DrawsFollowTheExactLawForEveryOption) {
  std::vector<float> peaked = logits_of(300, 4, 1);  // a range of some 24 nats: most tokens lie in the bucket
  peaked[17] = peaked[90] = peaked[211];             // ties
  std::vector<float> flat = logits_of(300, 0.5, 2);
  std::vector<float> cliff(1100, 0.0f);  // two likely tokens, and a bucket that holds a tenth of the law
  cliff[5] = 8.5f;
  cliff[1030] = 8.1f;
  const std::vector<SamplingLaw> laws = {{},
                                         {.temperature = 0.6},
                                         {.temperature = 1.7},
                                         {.top_k = 1},
                                         {.top_k = 20},
                                         {.top_k = 200},
                                         {.top_p = 0.5},
                                         {.top_p = 0.95},
                                         {.top_p = 0.9999},
                                         {.min_p = 0.05},
                                         {.min_p = 1e-5},
                                         {.temperature = 0.8, .top_k = 50},
                                         {.temperature = 1.3, .top_p = 0.9},
                                         {.temperature = 0.7, .top_p = 0.95, .top_k = 40},
                                         {.temperature = 1.2, .top_p = 0.98, .top_k = 300, .min_p = 0.01},
                                         {.temperature = 3, .min_p = 0.02}};
  for (const auto* logits : {&peaked, &flat, &cliff})
    for (const SamplingLaw& law : laws) {
      const double off = deviation(exact_law(*logits, law), draw(*logits, law, kDraws));
      EXPECT_LT(off, kFalseAlarm) << "T " << law.temperature << " top_p " << law.top_p << " top_k " << law.top_k << " min_p " << law.min_p << ", "
                                  << logits->size() << " tokens";
    }
}

TEST(SamplingLaw, TheTestSeesALawThatIsOffByAFewPercent) {
  const std::vector<float> logits = logits_of(300, 4, 1);
  EXPECT_GT(deviation(exact_law(logits, {.temperature = 1.12}), draw(logits, {}, kDraws)), kFalseAlarm);
}

TEST(SamplingLaw, ThreeLogProbabilities) {
  const std::vector<float> logits = logits_of(3000, 2, 3);
  const auto V = static_cast<int64_t>(logits.size());
  for (const SamplingLaw& law : {SamplingLaw{}, SamplingLaw{.temperature = 0.7}, SamplingLaw{.temperature = 1.4, .top_p = 0.8, .top_k = 90}}) {
    const std::vector<double> p = exact_law(logits, law);
    for (const Choice& c : draw(logits, law, 200)) {
      const int64_t token = c.token;
      float plain = 0, tempered = 0;
      kernels::logprobs_forward(logits.data(), V, 1, V, &token, 1.0f, {&plain, nullptr, nullptr, nullptr, nullptr, nullptr});
      kernels::logprobs_forward(logits.data(), V, 1, V, &token, static_cast<float>(1 / law.temperature),
                                {&tempered, nullptr, nullptr, nullptr, nullptr, nullptr});
      EXPECT_EQ(std::memcmp(&plain, &c.logprob, sizeof plain), 0);
      EXPECT_EQ(std::memcmp(&tempered, &c.tempered, sizeof plain), 0);
      EXPECT_NEAR(c.sampler, std::log(p[token]), 2e-5);  // float32 products logit * (1 / T) and a float32 sum of 3,000 terms
      if (!law.truncated()) {
        EXPECT_EQ(c.sampler, c.tempered);
      }
    }
  }
}

TEST(SamplingLaw, GreedyTakesTheLowestIdOfATieAndHasNoLawOfItsOwn) {
  std::vector<float> logits = logits_of(5000, 2, 4);
  logits[4100] = logits[2049] = logits[2047] = 30;
  const Choice c = draw(logits, {.temperature = 0}, 50)[49];
  EXPECT_EQ(c.token, 2047);
  EXPECT_EQ(c.sampler, 0);
  EXPECT_EQ(c.tempered, c.logprob);
  EXPECT_NEAR(c.logprob, -std::log(3.0), 1e-5);
}

TEST(SamplingLaw, LogitsThatAreNotFiniteGiveNoToken) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits = logits_of(100, 2, 4);
    logits[50] = bad;
    for (const SamplingLaw& law : {SamplingLaw{}, SamplingLaw{.temperature = 0}, SamplingLaw{.top_k = 5}})
      EXPECT_EQ(draw(logits, law, 50)[0].token, -1);
  }
}

TEST(SamplingLaw, RaisingOneLogitOnlyEverChoosesThatToken) {
  const std::vector<float> before = logits_of(800, 3, 5);
  std::vector<float> after = before;
  const auto likeliest = std::max_element(before.begin(), before.end()) - before.begin();
  const int32_t raised = likeliest == 9 ? 10 : 9;
  after[raised] = before[likeliest] - 1;  // not the largest: the threshold stays
  const std::vector<Choice> a = draw(before, {}, 4000), b = draw(after, {}, 4000);
  int changed = 0, by_the_bucket = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].token == b[i].token) continue;
    ++changed;
    by_the_bucket += b[i].token != raised;
  }
  EXPECT_GT(changed, 100);
  EXPECT_LE(by_the_bucket, 2);  // it left the bucket, which held a millionth: there the others may win by its noise
}

TEST(SamplingLaw, CloseModelsDrawTheSameTokens) {
  const std::vector<float> x = logits_of(2000, 2, 6), noise = logits_of(2000, 1e-3, 8);
  std::vector<float> y = x;
  for (size_t i = 0; i < y.size(); ++i) y[i] += noise[i];
  for (const SamplingLaw& law : {SamplingLaw{}, SamplingLaw{.temperature = 0.7, .top_p = 0.95}}) {
    const std::vector<Choice> a = draw(x, law, 4000), b = draw(y, law, 4000);
    int differ = 0;
    for (size_t i = 0; i < a.size(); ++i) differ += a[i].token != b[i].token;
    // The total variation distance of the two laws is about 4e-4: independent draws would differ in most places.
    EXPECT_LT(differ, 40);
  }
}

TEST(SamplingLaw, AChoiceDependsOnNothingButItsRow) {
  const int count = threads();
  const kernels::Isa isa = kernels::active_isa();
  const std::vector<float> logits = logits_of(3333, 2, 9);
  for (const SamplingLaw& law : {SamplingLaw{}, SamplingLaw{.temperature = 0.9, .top_k = 70}}) {
    const std::vector<Choice> want = draw(logits, law, 400);
    for (const int n : {1, 2}) {
      set_threads(n);
      for (const kernels::Isa other : {kernels::Isa::avx2, isa}) {
        kernels::force_isa(other);
        Chooser chooser(law, 7, 3333);
        for (uint32_t i = 0; i < 400; i += 7) {
          const DrawKey key{i, 2, 3};
          Choice c;
          chooser.choose(logits.data(), std::span(&key, 1), &c);
          EXPECT_EQ(std::memcmp(&c, &want[i], sizeof c), 0);
        }
      }
    }
  }
  set_threads(count);
  kernels::force_isa(isa);
}

}  // namespace
}  // namespace hone::rollout
