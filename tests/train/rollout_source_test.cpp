// Rollouts: which groups a step trains on, that everything follows from the draw, that the journal and the checkpoint give back the same bits
// without sampling, and that groups without spread are replaced.
#include "hone/train/rollout_source.h"

#include <gtest/gtest.h>

#include <set>

#include "hone/text/tokenizer.h"
#include "support/run_job.h"

namespace hone::train {
namespace {

/// Keeps the groups it was given.
struct Keeper : methods::OnPolicyMethod {
  std::vector<methods::Group> groups;
  methods::Scope scope() const override { return methods::Scope::sequence; }
  int64_t num_rows() const override { return std::ssize(groups); }
  int64_t row_tokens(int64_t) const override { return 1; }
  int64_t input_tokens(int64_t) const override { return 1; }
  void append(batch::PackedBatch&, int64_t) const override {}
  std::vector<double> counts(std::span<const int64_t>) const override { return {}; }
  methods::MethodOutput evaluate(const methods::Forward&, const methods::StepInputs&) const override { return {}; }
  void begin(std::vector<methods::Group> taken) override { groups = std::move(taken); }
  std::vector<double> advantages(int64_t row) const override { return std::vector<double>(groups[row].completions.size(), 0.5); }
  std::vector<std::pair<std::string, double>> rollout_metrics() const override { return {}; }
};

/// Spread for rows whose number is even: 1 for the completion's first token even, else 0; odd rows always get 0. Counts its calls.
struct EvenRows : rewards::Reward {
  int calls = 0;
  std::vector<rewards::Judgement> judge(std::span<const rewards::Sample> samples) override {
    ++calls;
    std::vector<rewards::Judgement> out;
    int i = 0;
    for (const rewards::Sample& s : samples) {
      const bool even = s.row->at("number").get<int>() % 2 == 0;
      out.push_back({rewards::Verdict::wrong, even && ++i % 2 ? 1.0 : 0.0, {}});
    }
    return out;
  }
};

struct Bench {
  std::shared_ptr<model::Model> model = test::load_golden("models/chat", ops::Backend::kernels);
  text::Tokenizer tokenizer = text::Tokenizer::from_json(read_text(golden::golden_path("models/chat") / "tokenizer.json"), "chat");
  PromptData prompts;
  std::vector<NamedReward> rewards;
  EvenRows* reward = nullptr;
  SamplingSetup setup;
  RolloutPlan plan = sliced_plan(2, 2, 2);
  Bench() {
    for (int i = 0; i < 7; ++i) prompts.rows.push_back({{3 + i, 5, 7 + i}, {{"number", i}}, {}, i});
    auto made = std::make_unique<EvenRows>();
    reward = made.get();
    rewards.push_back({"even", std::move(made)});
    setup.num_generations = 3;
    setup.max_completion_length = 5;
    setup.tokenizer = &tokenizer;
    setup.rewards = &rewards;
    setup.reward_weights = {1.0};
  }
  std::unique_ptr<RolloutSource> open(const std::filesystem::path& run, Keeper& keeper, const std::string& key = "key") {
    auto source = std::make_unique<RolloutSource>(run, prompts, setup, plan, keeper);
    source->set_key(key);
    return source;
  }
  bool step(RolloutSource& source, int64_t step) { return source.before_step(step, *model, nullptr, {}); }
};

bool same(const std::vector<methods::Group>& a, const std::vector<methods::Group>& b) {
  if (a.size() != b.size()) return false;
  for (size_t g = 0; g < a.size(); ++g)
    for (size_t s = 0; s < a[g].completions.size(); ++s)
      if (a[g].prompt != b[g].prompt || a[g].completions[s].ids != b[g].completions[s].ids ||
          a[g].completions[s].logprobs != b[g].completions[s].logprobs)
        return false;
  return true;
}

TEST(SlicedPlan, GoesOverTheSlicesNumIterationsTimes) {
  const RolloutPlan plan = sliced_plan(2, 3, 2);
  EXPECT_EQ(plan.prompts, 6);
  EXPECT_EQ(plan.steps, 6);
  EXPECT_EQ(plan.rows(0, 0), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(plan.rows(0, 2), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(plan.rows(7, 3), (std::vector<int64_t>{0, 1}));
  config::RunConfig c;
  c.num_train_epochs = 1;
  EXPECT_EQ(rollout_steps(c, 13, plan), 18);  // three rollouts begin a pass over 13 prompts
  c.max_steps = 5;
  EXPECT_EQ(rollout_steps(c, 13, plan), 5);
}

TEST(HasSpread, CountsEachRewardWhereEachIsNormalised) {
  SamplingSetup setup;
  setup.reward_weights = {1.0, 1.0};
  DrawnGroup group;
  for (const double r : {0.0, 1.0}) {  // the sums are equal, the rewards are not
    Trajectory& t = group.samples.emplace_back();
    t.judgements = {{rewards::Verdict::wrong, r, {}}, {rewards::Verdict::wrong, 1 - r, {}}};
  }
  EXPECT_FALSE(has_spread(group, setup));
  setup.aggregation = config::RewardAggregation::normalize_then_sum;
  EXPECT_TRUE(has_spread(group, setup));
}

TEST(RolloutSource, AJournalAndACheckpointGiveTheSameBitsWithoutSampling) {
  Bench bench;
  test::TemporaryRun run, other;
  Keeper first, again, fresh, middle;
  const auto source = bench.open(run.path, first);
  ASSERT_TRUE(bench.step(*source, 0));
  EXPECT_GT(source->take_times().sampled_tokens, 0);
  EXPECT_EQ(first.groups.size(), 4u);
  const int calls = bench.reward->calls;
  // after a kill: the journal of the folder
  const auto killed = bench.open(run.path, again);
  ASSERT_TRUE(bench.step(*killed, 0));
  EXPECT_EQ(killed->take_times().sampled_tokens, 0);
  EXPECT_EQ(bench.reward->calls, calls);
  EXPECT_TRUE(same(first.groups, again.groups));
  // a checkpoint in the middle, in an empty folder
  const auto resumed = bench.open(other.path, middle);
  resumed->restore(Json::parse(source->state(1).dump()), 1);
  ASSERT_TRUE(bench.step(*resumed, 1));
  EXPECT_EQ(resumed->take_times().sampled_tokens, 0);
  EXPECT_TRUE(same(first.groups, middle.groups));
  // both go on alike
  ASSERT_TRUE(bench.step(*source, 4));
  ASSERT_TRUE(bench.step(*resumed, 4));
  EXPECT_TRUE(same(first.groups, middle.groups));
  EXPECT_FALSE(same(first.groups, again.groups));
  // another run's journal is not taken up
  const auto stranger = bench.open(run.path, fresh, "another");
  ASSERT_TRUE(bench.step(*stranger, 0));
  EXPECT_GT(stranger->take_times().sampled_tokens, 0);
  EXPECT_TRUE(same(again.groups, fresh.groups));  // the weights are the same
}

TEST(RolloutSource, DrawsEveryPromptOnceAPass) {
  Bench bench;
  test::TemporaryRun run;
  Keeper keeper;
  bench.plan = sliced_plan(7, 1, 1);
  const auto source = bench.open(run.path, keeper);
  for (int64_t pass = 0; pass < 2; ++pass) {
    ASSERT_TRUE(bench.step(*source, pass));
    std::set<int64_t> rows, draws;
    for (const DrawnGroup& g : source->groups()) rows.insert(g.row), draws.insert(g.draw);
    EXPECT_EQ(rows.size(), 7u);
    EXPECT_EQ(*draws.begin(), 7 * pass);
  }
  EXPECT_DOUBLE_EQ(source->epoch(), 2.0);
}

TEST(RolloutSource, GroupsWithoutSpreadAreReplacedUpToALimit) {
  Bench bench;
  test::TemporaryRun run, other;
  Keeper keeper;
  bench.plan.dynamic_sampling = true;
  bench.plan.max_resample = 20;
  const auto source = bench.open(run.path, keeper);
  ASSERT_TRUE(bench.step(*source, 0));
  EXPECT_EQ(source->groups().size(), 4u);
  for (const DrawnGroup& g : source->groups()) {
    EXPECT_EQ(g.row % 2, 0);
    EXPECT_TRUE(has_spread(g, bench.setup));
  }
  EXPECT_EQ(source->metrics().at("resampled_groups"), source->replaced().size());
  // nothing has spread: the limit ends it, and the groups that were put aside first fill the rollout
  Bench flat;
  for (PromptRow& row : flat.prompts.rows) row.columns["number"] = 1;
  flat.plan.dynamic_sampling = true;
  flat.plan.max_resample = 2;
  const auto limited = flat.open(other.path, keeper);
  ASSERT_TRUE(flat.step(*limited, 0));
  ASSERT_EQ(limited->groups().size(), 4u);
  EXPECT_EQ(limited->groups()[0].draw, 0);
  EXPECT_EQ(limited->replaced().size(), 8u);
}

}  // namespace
}  // namespace hone::train
