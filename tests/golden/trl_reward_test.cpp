// Reward models against transformers' LlamaForSequenceClassification and TRL's RewardTrainer in float64 (make_trl_reward.py): scores, loss,
// metrics and every gradient; and what must not change a bit.
#include <gtest/gtest.h>

#include "hone/adapters/lora.h"
#include "hone/methods/reward_model.h"
#include "hone/train/micro_batch.h"
#include "hone/train/scoring.h"
#include "support/golden_model.h"

namespace hone {
namespace trl_reward_test {

// float32 against a float64 oracle, in the Euclidean norm of each tensor: the bound.
constexpr double kBound = 1e-5;
constexpr int kPairs = 5;
const std::vector<int64_t> kAll{0, 1, 2, 3, 4};

using Oracle = std::map<std::string, golden::OracleTensor>;

struct Pairs {
  std::vector<std::vector<int32_t>> chosen, rejected;
  std::vector<double> margins;

  explicit Pairs(const Oracle& oracle) : margins(oracle.at("margins").values) {
    for (int k = 0; k < kPairs; ++k) {
      const auto ids = [&](const char* side) {
        const auto& values = oracle.at(fmt::format("{}.{}", side, k)).values;
        return std::vector<int32_t>(values.begin(), values.end());
      };
      chosen.push_back(ids("chosen"));
      rejected.push_back(ids("rejected"));
    }
  }
  methods::RewardModel method(bool with_margins, double centring, int64_t max_tree_tokens = 4096, double smoothing = 0) const {
    config::PreferenceOptions options;
    options.center_rewards_coefficient = centring;
    options.label_smoothing = smoothing;
    std::vector<data::PairRow> rows;
    for (int k = 0; k < kPairs; ++k) {
      data::PairRow& row = rows.emplace_back();
      row.chosen.ids = chosen[k];
      row.rejected.ids = rejected[k];
      row.margin = with_margins ? margins[k] : 0;
    }
    return {rows, options, max_tree_tokens};
  }
};

std::unique_ptr<model::Model> load(const std::string& name, ops::Backend backend) {
  return model::load_model(*model::open_model(golden::golden_path("trl_reward/" + name).string(), model::Head::reward), backend, at::kCPU, 64);
}

using Case = std::tuple<std::string, ops::Backend>;

class TrlReward : public testing::TestWithParam<Case> {
 protected:
  std::string name() const { return std::get<0>(GetParam()); }
  ops::Backend backend() const { return std::get<1>(GetParam()); }
  Oracle oracle() const { return golden::read_oracle(golden::golden_path("trl_reward/" + name()) / "oracle.safetensors"); }
};

TEST_P(TrlReward, ScoresOfTransformers) {
  const Oracle oracle = this->oracle();
  const Pairs pairs(oracle);
  const auto model = load(name(), backend());
  EXPECT_LE(test::relative_error(train::reward_scores(*model, pairs.chosen, 40), oracle.at("scores_chosen").values), kBound);
  EXPECT_LE(test::relative_error(train::reward_scores(*model, pairs.rejected, 1000), oracle.at("scores_rejected").values), kBound);
}

TEST_P(TrlReward, LossMetricsAndEveryGradient) {
  const Oracle oracle = this->oracle();
  const Pairs pairs(oracle);
  const std::map<std::string, std::pair<bool, double>> variants{
      {"plain", {false, 0.0}}, {"margin", {true, 0.0}}, {"centred", {false, 0.01}}, {"both", {true, 0.3}}};
  for (const auto& [variant, options] : variants) {
    const auto model = load(name(), backend());
    for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
    const methods::RewardModel method = pairs.method(options.first, options.second);
    const train::StepSums sums = train::run_rows(*model, method, kAll, {30, true, variant == "both"});
    const auto wanted = [&](const std::string& key) { return oracle.at(key + "." + variant).values[0]; };
    EXPECT_NEAR(sums.loss, wanted("loss"), kBound * wanted("loss")) << variant;
    ASSERT_EQ(sums.metrics.size(), 5u);
    for (const auto& [key, value] : sums.metrics) EXPECT_NEAR(value, wanted(key), kBound * std::max(1.0, std::abs(wanted(key)))) << variant << key;
    int compared = 0;
    for (const ops::Parameter* p : model->parameters())
      for (const ops::Part& part : p->parts) {
        const auto gradient = oracle.find("grad." + variant + "." + part.name);
        if (gradient == oracle.end() && part.name == "model.embed_tokens.weight") continue;
        ASSERT_NE(gradient, oracle.end()) << part.name;
        EXPECT_LE(test::relative_error(test::gradient_of(*p, part), gradient->second.values), kBound) << variant << " " << part.name;
        ++compared;
      }
    EXPECT_GE(compared, 20) << "two layers of nine tensors, the last norm, the score";
  }
}

TEST_P(TrlReward, ATreeHasTheScoresOfItsSequences) {
  const Pairs pairs(oracle());
  const auto model = load(name(), backend());
  const auto scores = [&](int64_t max_tree_tokens) {
    batch::PackedBatch packed;
    const methods::RewardModel method = pairs.method(false, 0, max_tree_tokens);
    for (int64_t row : kAll) method.append(packed, row);
    EXPECT_EQ(packed.num_predictions(), 0) << "nothing of the vocabulary is needed";
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
    return model::sequence_scores(*model, nullptr, model::decoder(*model, nullptr, tensors, {}), tensors);
  };
  const at::Tensor tree = scores(4096), flat = scores(1);
  EXPECT_LT(pairs.method(false, 0).row_tokens(3), pairs.method(false, 0, 1).row_tokens(3)) << "the prompt is packed once";
  if (backend() == ops::Backend::kernels)
    EXPECT_TRUE(at::equal(tree, flat));
  else
    EXPECT_TRUE(at::allclose(tree, flat, 1e-5, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Models, TrlReward,
                         testing::Combine(testing::Values("tied", "untied"), testing::Values(ops::Backend::kernels, ops::Backend::reference)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + (std::get<1>(info.param) == ops::Backend::kernels ? "_kernels" : "_reference");
                         });

TEST(RewardModel, TheMicroBatchBudgetChangesNoBit) {
  const Pairs pairs(golden::read_oracle(golden::golden_path("trl_reward/tied/oracle.safetensors")));
  const methods::RewardModel method = pairs.method(true, 0.1, 4096, 0.05);
  std::optional<train::StepSums> first;
  std::vector<float> gradients;
  for (const int64_t budget : {1, 30, 47, 100000}) {
    const auto model = load("tied", ops::Backend::kernels);
    for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
    const train::StepSums sums = train::run_rows(*model, method, kAll, {budget, true, false});
    if (!first) {
      first = sums;
      gradients = test::all_gradients(*model);
      continue;
    }
    EXPECT_EQ(sums.loss, first->loss) << budget;
    EXPECT_EQ(sums.metrics, first->metrics) << budget;
    EXPECT_EQ(sums.row_loss, first->row_loss) << budget;
    EXPECT_EQ(test::all_gradients(*model), gradients) << budget;
  }
}

TEST(RewardModel, TheExtremesAreThoseOfTheStep) {
  const Oracle oracle = golden::read_oracle(golden::golden_path("trl_reward/tied/oracle.safetensors"));
  const auto model = load("tied", ops::Backend::kernels);
  const Pairs pairs(oracle);
  const methods::RewardModel method = pairs.method(false, 0);
  const std::vector<int64_t> rows{2, 0};
  double least = INFINITY, greatest = -INFINITY;
  for (int64_t row : rows)
    for (const char* side : {"scores_chosen", "scores_rejected"}) {
      least = std::min(least, oracle.at(side).values[row]);
      greatest = std::max(greatest, oracle.at(side).values[row]);
    }
  const train::StepSums sums = train::run_rows(*model, method, rows, {1, false, false});
  ASSERT_EQ(sums.metrics[2].first, "min_reward");
  EXPECT_NEAR(sums.metrics[2].second, least, 1e-5);
  ASSERT_EQ(sums.metrics[4].first, "max_reward");
  EXPECT_NEAR(sums.metrics[4].second, greatest, 1e-5);
  EXPECT_TRUE(sums.row_metrics[2].empty()) << "an extreme has no interval";
}

// L = (1 - e) f(z) + e f(-z) + c s^2 by hand, and its derivatives by central differences.
TEST(BradleyTerry, ValueAndDerivatives) {
  const double z = 0.7 - (-0.2) - 0.5;
  EXPECT_NEAR(methods::bradley_terry(0.7, -0.2, 0.5, 0.1, 0.2).loss, 0.9 * std::log1p(std::exp(-z)) + 0.1 * std::log1p(std::exp(z)) + 0.2 * 0.5 * 0.5,
              1e-14);
  EXPECT_NEAR(methods::bradley_terry(3, 3, 0, 0, 0).loss, std::log(2.0), 1e-15);
  for (const auto& [c, r, m, e, k] : std::vector<std::array<double, 5>>{
           {0.7, -0.2, 0.5, 0.1, 0.2}, {-3, 4, 0, 0, 0}, {5, -6, 1, 0.3, 0.01}, {40, -3, 0, 0, 0}, {-50, 3, 2, 0.5, 0}}) {
    const methods::PairLoss p = methods::bradley_terry(c, r, m, e, k);
    const double h = 1e-5;
    const auto at = [&](double dc, double dr) { return methods::bradley_terry(c + dc, r + dr, m, e, k).loss; };
    EXPECT_NEAR(p.by_chosen, (at(h, 0) - at(-h, 0)) / (2 * h), 1e-8);
    EXPECT_NEAR(p.by_rejected, (at(0, h) - at(0, -h)) / (2 * h), 1e-8);
  }
  // No overflow, no NaN of its own; one that comes in goes out.
  EXPECT_EQ(methods::bradley_terry(1e6, -1e6, 0, 0, 0).loss, 0);
  EXPECT_EQ(methods::bradley_terry(-1e6, 1e6, 0, 0, 0).loss, 2e6);
  EXPECT_EQ(methods::bradley_terry(-1e6, 1e6, 0, 0, 0).by_chosen, -1);
  EXPECT_TRUE(std::isnan(methods::bradley_terry(NAN, 0, 0, 0, 0).loss));
}

// A reward adapter: the head is trained in full, the base is frozen, the files read back to the same scores.
TEST(RewardAdapter, TrainsPathsAndHeadAndReadsBack) {
  const Pairs pairs(golden::read_oracle(golden::golden_path("trl_reward/untied/oracle.safetensors")));
  const methods::RewardModel method = pairs.method(false, 0.01);
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("hone-reward-{}", getpid());
  for (const std::optional<model::Quantisation>& quantisation : {std::optional<model::Quantisation>(), std::optional(model::Quantisation{})}) {
    const std::string base = quantisation ? "models/bf16_aligned" : "models/untied_mha_v4";  // blocks of 64 need a width that they divide
    const auto source = model::open_model(golden::golden_path(base).string());
    const auto open = [&] { return model::load_model(*source, ops::Backend::kernels, at::kCPU, 64, quantisation, /*language_head=*/false); };
    const auto model = open();
    EXPECT_FALSE(model->lm_head.defined()) << "an untied head is not read";
    model::add_score_head(*model, 7);
    const std::vector<float> before = test::all_values(*model);
    adapters::LoraConfig lora;
    lora.task = adapters::Task::seq_cls;
    lora.r = 2;
    const auto adapter = adapters::create_adapter(*model, *source, lora, 3);
    ASSERT_TRUE(adapter->set.score);
    EXPECT_EQ(adapter->parameters.back(), adapter->set.score.get());
    EXPECT_EQ(adapter->config.modules_to_save, std::vector<std::string>{"score"});
    const train::StepSums sums = train::run_rows(*model, method, kAll, {.micro_batch_tokens = 64, .training = true, .adapters = &adapter->set});
    EXPECT_TRUE(std::isfinite(sums.loss));
    for (ops::Parameter* p : adapter->parameters) {
      const bool a = p->name().ends_with(".lora_A.weight");  // B is 0: A has no gradient yet
      EXPECT_EQ(p->grad.count_nonzero().item<int64_t>() == 0, a) << p->name();
      p->value.detach().sub_(p->grad, 0.5).add_(a ? 0.01 : 0.0);
    }
    adapters::updated(*adapter);
    EXPECT_EQ(test::all_values(*model), before) << "the base is frozen";
    const std::vector<float> scores = train::reward_scores(*model, pairs.chosen, 100, &adapter->set);
    EXPECT_NE(scores, train::reward_scores(*model, pairs.chosen, 100)) << "the adapter changes something";
    adapters::save_adapter(*adapter, folder);
    const adapters::PeftAdapter files = adapters::read_peft(folder);
    EXPECT_EQ(files.config.task, adapters::Task::seq_cls);
    const auto fresh = open();  // without a head of its own: the adapter brings it
    const auto again = adapters::load_adapter(*fresh, files, source->content_hash(), false);
    EXPECT_EQ(train::reward_scores(*fresh, pairs.chosen, 50, &again->set), scores);
    EXPECT_EQ(train::reward_scores(*fresh, pairs.chosen, 50, &adapters::frozen_copy(*again)->set), scores);
    EXPECT_FALSE(adapters::is_identity(*again));
  }
  std::filesystem::remove_all(folder);
}

}  // namespace trl_reward_test
}  // namespace hone
