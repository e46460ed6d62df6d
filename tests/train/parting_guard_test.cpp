// The guard against reward hacking: it stops a run whose train reward rises while its held-out score falls, and never a healthy one.
#include "hone/train/parting_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace hone::train {
namespace {

using testing::HasSubstr;

/// A run whose true rewards follow `train` and `held_out` (evaluation number -> mean); scores of single prompts scatter widely around them.
struct Simulated {
  std::mt19937 rng;
  std::vector<double> prompts;  // how much each is easier than the mean
  explicit Simulated(unsigned seed, int count = 64) : rng(seed) {
    std::normal_distribution<double> ease(0, 1);
    for (int i = 0; i < count; ++i) prompts.push_back(ease(rng));
  }
  std::vector<double> scores(double mean, bool binary) {
    std::normal_distribution<double> noise(0, 1);
    std::vector<double> all;
    for (const double ease : prompts) {
      const double value = mean + ease + noise(rng);
      all.push_back(binary ? (value > 0 ? 1.0 : 0.0) : value);
    }
    return all;
  }
};

/// What the guard says, and at which evaluation.
template <class Train, class HeldOut>
std::pair<std::string, int> watch(unsigned seed, Train train, HeldOut held_out, int evaluations, bool binary = false, int count = 64) {
  Simulated run(seed, count);
  PartingGuard guard(0.01);
  std::normal_distribution<double> noise(0, 0.2);
  for (int e = 1; e <= evaluations; ++e) {
    for (int r = 0; r < 5; ++r) guard.rollout(train(e) + noise(run.rng));
    if (std::string problem = guard.evaluated(10 * e, run.scores(held_out(e), binary)); !problem.empty()) return {problem, e};
  }
  return {"", evaluations};
}

// Several updates a rollout: an evaluation may have no rollout of its own.
TEST(PartingGuard, SeesThroughEvaluationsWithoutARollout) {
  Simulated run(5);
  PartingGuard guard(0.01);
  const std::vector<double> good = run.scores(1.0, false);
  std::vector<double> better = good, bad = good;
  for (double& v : better) v += 0.1;
  for (double& v : bad) v -= 2.0;
  guard.rollout(0.1);
  EXPECT_EQ(guard.evaluated(1, good), "");
  EXPECT_EQ(guard.evaluated(2, better), "");
  guard.rollout(0.9);
  EXPECT_THAT(guard.evaluated(6, bad), HasSubstr("since step 2"));
}

double rising(int e) { return 2.0 * e / (e + 10.0); }

TEST(PartingGuard, TwentyHealthyRunsAreNeverStopped) {
  for (unsigned seed = 0; seed < 20; ++seed)
    for (const bool binary : {false, true}) {
      EXPECT_EQ(watch(seed, rising, rising, 200, binary).first, "") << "both rise, seed " << seed;
      EXPECT_EQ(watch(
                    seed, rising, [](int) { return 0.3; }, 200, binary)
                    .first,
                "")
          << "over-fitting without a fall, seed " << seed;
      EXPECT_EQ(watch(
                    seed, rising, [](int e) { return std::min(1.0, 0.1 * e) + 0.1 * std::sin(e); }, 200, binary)
                    .first,
                "")
          << "it sways, seed " << seed;
    }
}

TEST(PartingGuard, PartingIsCaught) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto falls = [](int e) { return e <= 10 ? 0.1 * e : 1.0 - 0.15 * (e - 10); };
    const auto [problem, when] = watch(seed, rising, falls, 40);
    EXPECT_THAT(problem, HasSubstr("train reward and held-out score part")) << seed;
    EXPECT_GT(when, 10) << seed;
    EXPECT_LE(when, 26) << seed;  // fallen by 2.4 standard deviations of a prompt's noise at most
  }
}

TEST(PartingGuard, AFallOfBothIsNoParting) {
  for (unsigned seed = 0; seed < 20; ++seed)
    EXPECT_EQ(watch(
                  seed, [](int e) { return -0.1 * e; }, [](int e) { return -0.2 * e; }, 40)
                  .first,
              "")
        << seed;
}

TEST(PartingGuard, FewPromptsStopNothing) {
  const auto falls = [](int e) { return -3.0 * e; };
  EXPECT_EQ(watch(1, rising, falls, 40, false, 6).first, "");
  EXPECT_NE(watch(1, rising, falls, 40, false, 64).first, "");
}

TEST(PartingGuard, NamesTheStepBeforeAndSpeaksOnce) {
  PartingGuard guard(0.01);
  const std::vector<double> good(40, 1.0), bad(40, 0.0);
  guard.rollout(0.1);
  EXPECT_EQ(guard.evaluated(5, good), "");
  guard.rollout(0.9);
  EXPECT_THAT(guard.evaluated(10, bad),
              HasSubstr("since step 5 the train reward rose from 0.1 to 0.9 and the score of 40 held-out prompts fell from 1 to 0"));
  EXPECT_EQ(guard.best_step(), 5);
  guard.rollout(0.95);
  EXPECT_EQ(guard.evaluated(15, bad), "");
  PartingGuard off(0);
  off.rollout(0.1);
  EXPECT_EQ(off.evaluated(5, good), "");
  off.rollout(0.9);
  EXPECT_EQ(off.evaluated(10, bad), "");
}

TEST(PartingGuard, GoesOnFromItsState) {
  PartingGuard first(0.01);
  std::vector<double> good(40, 1.0);
  good[3] = std::nan("");
  first.rollout(0.1);
  first.evaluated(5, good);
  first.rollout(0.9);
  PartingGuard next(0.01);
  next.restore(Json::parse(first.state().dump()));
  const std::vector<double> bad(40, 0.0);
  const std::string problem = first.evaluated(10, bad);
  EXPECT_NE(problem, "");
  EXPECT_EQ(next.evaluated(10, bad), problem);
  // What has been said stays said.
  PartingGuard later(0.01);
  later.restore(Json::parse(next.state().dump()));
  later.rollout(0.95);
  EXPECT_EQ(later.evaluated(15, bad), "");
}

}  // namespace
}  // namespace hone::train
