// The guards of on-policy runs: they stop what has no signal and name the cause, and healthy runs never.
#include "hone/train/rollout_guards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace hone::train {
namespace {

using testing::HasSubstr;

/// A reward that is never asked: the groups come judged.
struct Nothing : rewards::Reward {
  std::vector<rewards::Judgement> judge(std::span<const rewards::Sample> samples) override { return std::vector<rewards::Judgement>(samples.size()); }
};

struct Simulated {
  std::vector<NamedReward> rewards;
  SamplingSetup setup;
  explicit Simulated(std::vector<std::string> names = {"math"}) {
    for (std::string& name : names) rewards.push_back({std::move(name), std::make_unique<Nothing>()});
    setup.rewards = &rewards;
    setup.reward_weights.assign(rewards.size(), 1.0);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const NamedReward& r : rewards) all.push_back(r.name);
    return all;
  }
};

using Judge = std::function<rewards::Judgement(std::mt19937& rng, size_t reward)>;

std::vector<DrawnGroup> rollout(std::mt19937& rng, size_t rewards, double cut_share, const Judge& judge, int prompts = 8, int generations = 8) {
  std::vector<DrawnGroup> groups(prompts);
  for (DrawnGroup& group : groups) {
    group.samples.resize(generations);
    for (Trajectory& t : group.samples) {
      t.completion.ids = {1, 2};
      t.completion.finish = std::bernoulli_distribution(cut_share)(rng) ? rollout::Finish::length : rollout::Finish::stop;
      for (size_t r = 0; r < rewards; ++r) t.judgements.push_back(judge(rng, r));
    }
  }
  return groups;
}

Judge right_with(double share) {
  return [share](std::mt19937& rng, size_t) {
    const bool right = std::bernoulli_distribution(share)(rng);
    return rewards::Judgement{right ? rewards::Verdict::right : rewards::Verdict::wrong, right ? 1.0 : 0.0, {}};
  };
}
Judge always(rewards::Judgement j) {
  return [j](std::mt19937&, size_t) { return j; };
}

/// What the guard says within `steps` rollouts, and at which.
std::pair<std::string, int> watch(const Simulated& run, double cut_share, const Judge& judge, int steps = 60, unsigned seed = 1) {
  SignalGuard guard(run.names(), 128);
  std::mt19937 rng(seed);
  for (int step = 1; step <= steps; ++step)
    if (std::string problem = guard.after_rollout(rollout(rng, run.rewards.size(), cut_share, judge), {}, run.setup); !problem.empty())
      return {problem, step};
  return {"", steps};
}

TEST(SurelyBelow, IsClopperAndPearsonsUpperBound) {
  EXPECT_FALSE(surely_below(0, 148, 0.02));
  EXPECT_TRUE(surely_below(0, 149, 0.02));   // 0.98^149 = 0.0493
  EXPECT_FALSE(surely_below(1, 235, 0.02));  // upper bounds of scipy.stats.beta.ppf(0.95, k + 1, n - k): 0.02002
  EXPECT_TRUE(surely_below(1, 236, 0.02));   // 0.01994
  EXPECT_FALSE(surely_below(2, 256, 0.02));
  EXPECT_TRUE(surely_below(0, 1 << 20, 0.02));  // no underflow
  EXPECT_FALSE(surely_below(1 << 19, 1 << 20, 0.02));
  EXPECT_FALSE(surely_below(0, 0, 0.02));
}

TEST(SignalGuard, TwentyHealthyRunsAreNeverStopped) {
  // 300 rollouts each: from 4 % to 97 % right, a third of the completions cut at the start, some unparsed, one reward in ten thousand unscored.
  for (unsigned seed = 0; seed < 20; ++seed) {
    const Simulated run({"math", "format"});
    SignalGuard guard(run.names(), 128);
    std::mt19937 rng(seed);
    const double first = 0.04 + 0.02 * (seed % 5), last = 0.75 + 0.011 * seed;
    for (int step = 0; step < 300; ++step) {
      const double share = first + (last - first) * step / 300.0;
      const Judge judge = [&](std::mt19937& r, size_t reward) -> rewards::Judgement {
        if (std::bernoulli_distribution(1e-4)(r)) return {rewards::Verdict::timed_out, std::nullopt, {}};
        if (reward == 1) return {rewards::Verdict::right, 1.0, {}};  // a format that is always kept
        return right_with(share)(r, reward);
      };
      const std::string problem = guard.after_rollout(rollout(rng, 2, 0.33 * (1 - step / 300.0), judge), {}, run.setup);
      ASSERT_EQ(problem, "") << "seed " << seed << " step " << step;
    }
  }
}

TEST(SignalGuard, ARareRewardIsHealthy) {
  // One completion in a hundred is right: with 8 of them 8 % of the groups teach.
  for (unsigned seed = 0; seed < 20; ++seed) EXPECT_EQ(watch(Simulated(), 0.1, right_with(0.01), 100, seed).first, "") << seed;
}

TEST(SignalGuard, NamesWhatIsWrong) {
  using rewards::Verdict;
  const struct {
    const char* fault;
    double cut;
    Judge judge;
    const char* cause;
    int groups;  // by which it must have stopped
  } faults[] = {
      {"every completion is cut", 1.0, right_with(0.5), "all cut", 24},
      {"no reward ever", 0.1, always({Verdict::wrong, 0.0, {}}), "no completion has had any reward", 152},
      {"every completion is right", 0.1, always({Verdict::right, 1.0, {}}), "are right", 152},
      {"a constant reward", 0.1, always({Verdict::wrong, 0.25, {}}), "the same reward 0.25", 152},
      {"no answer can be read", 0.1, always({Verdict::unparsed, 0.0, {}}), "unparsed", 152},
      {"the reward crashes", 0.1, always({Verdict::crashed, std::nullopt, {}}), "the reward math does not work", 24},
      {"the reward times out", 0.1, always({Verdict::timed_out, std::nullopt, {}}), "the reward math does not work", 24},
      {"rewards differ between prompts only", 0.1, {}, "nearly always get the same reward", 152},
  };
  for (const auto& f : faults) {
    int group = 0;
    Judge judge = f.judge;
    if (!judge) judge = [&group](std::mt19937&, size_t) { return rewards::Judgement{rewards::Verdict::wrong, (group++ / 8) % 2 ? 1.0 : 0.0, {}}; };
    const auto [problem, step] = watch(Simulated(), f.cut, judge);
    EXPECT_THAT(problem, HasSubstr(f.cause)) << f.fault;
    EXPECT_LE(step * 8, f.groups) << f.fault;
  }
}

TEST(SignalGuard, OneBrokenRewardOfTwoIsNamed) {
  const Judge judge = [](std::mt19937& rng, size_t reward) {
    return reward == 1 ? rewards::Judgement{rewards::Verdict::crashed, std::nullopt, {}} : right_with(0.5)(rng, 0);
  };
  EXPECT_THAT(watch(Simulated({"math", "style"}), 0.1, judge).first, HasSubstr("the reward style does not work"));
}

TEST(SignalGuard, GoesOnFromItsState) {
  const Simulated run;
  std::mt19937 rng(3);
  SignalGuard whole(run.names(), 128), first(run.names(), 128);
  std::string last;
  for (int step = 0; step < 40 && last.empty(); ++step) {
    const auto groups = rollout(rng, 1, 0.1, always({rewards::Verdict::wrong, 0.0, {}}));
    last = whole.after_rollout(groups, {}, run.setup);
    SignalGuard next(run.names(), 128);
    next.restore(first.state());
    EXPECT_EQ(next.after_rollout(groups, {}, run.setup), last);
    first = next;
  }
  EXPECT_NE(last, "");
}

TEST(LevelGuard, TakesTheMedianOfItsWindow) {
  LevelGuard guard(1.0, 5);
  for (const double v : {0.1, 9.0, 0.2, 9.0, 0.3, 0.2}) EXPECT_FALSE(guard.exceeded(v));
  EXPECT_TRUE(guard.sound());
  EXPECT_FALSE(guard.exceeded(2.0));
  EXPECT_FALSE(guard.exceeded(std::nan("")));
  EXPECT_FALSE(guard.exceeded(0.9));
  EXPECT_FALSE(guard.exceeded(2.0));
  EXPECT_TRUE(guard.exceeded(3.0));
  EXPECT_FALSE(guard.exceeded(3.0));  // told once
  EXPECT_FALSE(guard.sound());
  LevelGuard off(0, 1);
  EXPECT_FALSE(off.exceeded(1e9));
  EXPECT_EQ(off.median(), 1e9) << "recorded all the same: hone rlhf's gate reads it";
  EXPECT_TRUE(off.sound());
}

/// A rollout of 16 completions of about `length` tokens, of which `repeated` are one token again and again.
std::vector<DrawnGroup> drifted(std::mt19937& rng, double length, double repeated) {
  std::vector<DrawnGroup> groups(4);
  std::normal_distribution<double> spread(1.0, 0.3);
  for (DrawnGroup& group : groups) {
    group.samples.resize(4);
    for (Trajectory& t : group.samples) {
      t.completion.ids.resize(static_cast<size_t>(std::max(5.0, length * spread(rng))));
      const bool loop = std::bernoulli_distribution(repeated)(rng);
      for (int32_t& id : t.completion.ids) id = loop ? 7 : std::uniform_int_distribution<int32_t>(0, 1 << 20)(rng);
    }
  }
  return groups;
}

/// What the guard says of completions that go from the first to the last values within 100 rollouts, and whether it was sound before the change.
std::string drift(unsigned seed, double length_to, double repeated_to, double length_from = 40) {
  DriftGuard guard(5.0, 0.5);
  std::mt19937 rng(seed);
  for (int i = 0; i < 160; ++i) {
    const double share = std::clamp((i - 30) / 100.0, 0.0, 1.0);
    const std::string problem =
        guard.after_rollout(drifted(rng, length_from + (length_to - length_from) * share, 0.05 + (repeated_to - 0.05) * share));
    if (i <= 30) {
      EXPECT_TRUE(guard.sound()) << seed << " " << i;
    }
    if (problem.empty()) continue;
    EXPECT_FALSE(guard.sound());
    return problem;
  }
  return {};
}

TEST(DriftGuard, TwentyHealthyRunsAreNeverStopped) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(drift(seed, 160, 0.2), "") << "answers four times as long, seed " << seed;
    EXPECT_EQ(drift(seed, 60, 0.05, 5), "") << "a word becomes an explanation, seed " << seed;
    EXPECT_EQ(drift(seed, 10, 0.3), "") << "answers become short, seed " << seed;
  }
}

TEST(DriftGuard, LengthAndRepetitionThatRunAwayAreCaught) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    EXPECT_THAT(drift(seed, 400, 0.1), HasSubstr("--max_length_drift")) << seed;
    EXPECT_THAT(drift(seed, 40, 0.9), HasSubstr("--max_repetition_drift")) << seed;
  }
}

TEST(DriftGuard, GoesOnFromItsState) {
  std::mt19937 rng(1);
  DriftGuard whole(5.0, 0.5), part(5.0, 0.5);
  std::string last;
  for (int i = 0; i < 60 && last.empty(); ++i) {
    const auto groups = drifted(rng, i < 10 ? 40 : 500, 0);
    last = whole.after_rollout(groups);
    DriftGuard next(5.0, 0.5);
    next.restore(Json::parse(part.state().dump()));
    EXPECT_EQ(next.after_rollout(groups), last);
    EXPECT_EQ(next.figures(), whole.figures());
    part = next;
  }
  EXPECT_NE(last, "");
  EXPECT_GT(whole.figures().at("completions/length_drift").get<double>(), 5);
}

}  // namespace
}  // namespace hone::train
