// The guards that read a step's line: a gap between sampler and trainer, a KL that runs away, and what survives a resume.
#include "hone/train/run_guards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "support/run_job.h"

namespace hone::train {
namespace {

using testing::HasSubstr;

/// A method that is never run.
struct NoMethod : methods::OnPolicyMethod {
  methods::Scope scope() const override { return methods::Scope::sequence; }
  int64_t num_rows() const override { return 0; }
  int64_t row_tokens(int64_t) const override { return 0; }
  int64_t input_tokens(int64_t) const override { return 0; }
  void append(batch::PackedBatch&, int64_t) const override {}
  std::vector<double> counts(std::span<const int64_t>) const override { return {}; }
  methods::MethodOutput evaluate(const methods::Forward&, const methods::StepInputs&) const override { return {}; }
  void begin(std::vector<methods::Group>) override {}
  std::vector<double> advantages(int64_t) const override { return {}; }
  std::vector<std::pair<std::string, double>> rollout_metrics() const override { return {}; }
};

struct Watched {
  test::TemporaryRun run;
  config::RunConfig config = test::small_config(4);
  PromptData prompts;
  std::vector<NamedReward> rewards;
  NoMethod method;
  std::unique_ptr<RolloutSource> source;
  TrainJob job;
  Watched() {
    prompts.rows.resize(1);
    SamplingSetup setup;
    setup.rewards = &rewards;
    source = std::make_unique<RolloutSource>(run.path, prompts, setup, sliced_plan(1, 1, 1), method);
    job.config = &config;
    job.method = job.on_policy = &method;
    job.rollouts = source.get();
  }
};

Json line(double kl, double gap) { return {{"kl", kl}, {"sampling/sampling_logp_difference/mean", gap}}; }

TEST(RunGuards, AGapBetweenSamplerAndTrainerStops) {
  Watched w;
  RunGuards guards({}, w.job);
  EXPECT_EQ(guards.after_step(line(0, 0), true), "");
  EXPECT_EQ(guards.after_step(line(0, 0.02), false), "");  // a later step on the same completions: the policy has moved
  EXPECT_THAT(guards.after_step(line(0, 0.02), true), HasSubstr("sampler and trainer disagree"));
  w.config.max_sampling_gap = 0;
  EXPECT_EQ(RunGuards({}, w.job).after_step(line(0, 0.02), true), "");
}

TEST(RunGuards, AKlThatRunsAwayStopsAndAFewNoisyStepsDoNot) {
  Watched w;
  RunGuards guards({}, w.job);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(guards.after_step(line(i % 3 == 0 ? 50.0 : 0.1, 0), true), "");
  EXPECT_TRUE(guards.sound());
  std::string problem;
  int steps = 0;
  while (problem.empty() && steps < 20) ++steps, problem = guards.after_step(line(1.5, 0), true);
  EXPECT_THAT(problem, HasSubstr("--max_kl is 1"));
  EXPECT_GE(steps, 3);
  EXPECT_FALSE(guards.sound());
}

TEST(RunGuards, TwentyHealthyRunsAreNeverStopped) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Watched w;
    RunGuards guards({}, w.job);
    std::mt19937 rng(seed);
    std::lognormal_distribution<double> kl(-3.0, 1.0);  // median 0.05 nats, one step in a thousand above 1
    for (int step = 0; step < 500; ++step) ASSERT_EQ(guards.after_step(line(kl(rng), 0), step % 4 == 0), "") << seed << " " << step;
  }
}

TEST(RunGuards, GoOnFromACheckpoint) {
  Watched w;
  RunGuards whole({}, w.job), first({}, w.job);
  for (int i = 0; i < 9; ++i) {
    EXPECT_EQ(whole.after_step(line(2, 0), true), "");
    EXPECT_EQ(first.after_step(line(2, 0), true), "");
  }
  Json progress;
  first.write(progress);
  RunGuards next({}, w.job);
  next.restore(Json::parse(progress.dump()));
  EXPECT_NE(whole.after_step(line(2, 0), true), "");
  EXPECT_NE(next.after_step(line(2, 0), true), "");
}

}  // namespace
}  // namespace hone::train
