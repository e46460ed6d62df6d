// PPO against TRL 1.12.0's experimental PPOTrainer in float64 (make_trl_ppo.py): KL, advantages, returns, both losses, every gradient; and what
// must not change a bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "hone/methods/ppo.h"
#include "hone/train/micro_batch.h"
#include "support/golden_model.h"

namespace hone {
namespace trl_ppo_test {

// float32 against a float64 oracle, in the Euclidean norm of each tensor: the bound.
constexpr double kBound = 1e-5;
constexpr int64_t kCompletions = 8;
constexpr double kTemperature = 0.7;

using Oracle = std::map<std::string, golden::OracleTensor>;

Oracle oracle_of(const std::string& name) { return golden::read_oracle(golden::golden_path("trl_ppo/" + name + ".safetensors")); }

config::PpoOptions options_of(const std::string& variant) {
  config::PpoOptions o;
  if (variant == "plain") return o;
  o.kl_coef = 0.3, o.kl_estimator = config::KlEstimator::k3, o.whiten_rewards = true, o.gamma = 0.97, o.lam = 0.9, o.missing_eos_penalty = 1.0;
  o.vf_coef = 0.5, o.cliprange = 0.1, o.cliprange_value = 0.05;
  return o;
}

template <class T>
std::vector<T> values_of(const Oracle& oracle, const std::string& key) {
  const auto& values = oracle.at(key).values;
  return {values.begin(), values.end()};
}

// A rollout of given completions, one a group, and the two methods over it.
struct Rollout {
  methods::PpoState state;
  std::shared_ptr<methods::PpoRollout> rollout;
  std::unique_ptr<methods::PpoPolicy> policy;
  std::unique_ptr<methods::PpoValue> value;

  Rollout(const Oracle& oracle, const config::PpoOptions& options, double entropy_coef = 0, double junk = std::numeric_limits<double>::quiet_NaN()) {
    state.kl_coef = options.kl_coef;
    rollout = std::make_shared<methods::PpoRollout>(options, std::vector<double>{});
    policy = std::make_unique<methods::PpoPolicy>(rollout, state, kTemperature, entropy_coef, 4096);
    value = std::make_unique<methods::PpoValue>(rollout, 4096);
    std::vector<methods::Group> groups;
    for (int64_t k = 0; k < kCompletions; ++k) groups.push_back({values_of<int32_t>(oracle, fmt::format("prompt.{}", k)), {completion(oracle, k)}});
    policy->begin(std::move(groups));
    for (int64_t k = 0; k < kCompletions; ++k) {
      rollout->reference().set(k, values_of<float>(oracle, fmt::format("ref_logprobs.{}", k)));
      std::vector<float> values = values_of<float>(oracle, fmt::format("values.{}", k));
      values.resize(static_cast<size_t>(rollout->row(k).states()), static_cast<float>(junk));  // behind a cut
      rollout->set_values(k, values);
    }
    rollout->finish(state);
    rollout->fresh = false;
  }

  static methods::SampledCompletion completion(const Oracle& oracle, int64_t k) {
    methods::SampledCompletion c;
    c.ids = values_of<int32_t>(oracle, fmt::format("completion.{}", k));
    c.logprobs = values_of<float>(oracle, fmt::format("logprobs.{}", k));
    c.truncated = oracle.at("finished").values[k] == 0;
    c.rewards = {oracle.at("scores").values[k]};
    return c;
  }
};

std::unique_ptr<model::Model> load_policy(const std::string& name, ops::Backend backend) {
  return test::load_golden(name == "tied" ? "models/tied_gqa2" : "models/untied_mha_v4", backend);
}

std::unique_ptr<model::Model> load_value(const std::string& name, ops::Backend backend) {
  return model::load_model(*model::open_model(golden::golden_path("trl_reward/" + name).string(), model::Head::reward), backend, at::kCPU, 64);
}

struct Pass {
  train::StepSums sums;
  std::vector<float> gradients;
};

Pass run(model::Model& model, const methods::Method& method, const std::vector<int64_t>& rows, int64_t budget) {
  for (ops::Parameter* p : model.parameters()) ops::enable_gradient(*p);
  Pass pass;
  pass.sums = train::run_rows(model, method, rows, {budget, true, false});
  pass.gradients = test::all_gradients(model);
  return pass;
}

double metric(const train::StepSums& sums, const std::string& key) {
  for (const auto& [name, value] : sums.metrics)
    if (name == key) return value;
  ADD_FAILURE() << "no metric " << key;
  return NAN;
}

void compare_gradients(const model::Model&, const std::vector<ops::Parameter*>& parameters, const Oracle& oracle, const std::string& prefix) {
  int compared = 0;
  for (const ops::Parameter* p : parameters)
    for (const ops::Part& part : p->parts) {
      EXPECT_LE(test::relative_error(test::gradient_of(*p, part), oracle.at(prefix + part.name).values), kBound) << prefix << part.name;
      ++compared;
    }
  EXPECT_GE(compared, 20) << "two layers of nine tensors, the last norm, the embedding";
}

using Case = std::tuple<std::string, std::string, ops::Backend>;  // fixture, variant, backend

class TrlPpo : public testing::TestWithParam<Case> {
 protected:
  std::string name() const { return std::get<0>(GetParam()); }
  std::string variant() const { return std::get<1>(GetParam()); }
  ops::Backend backend() const { return std::get<2>(GetParam()); }
};

TEST_P(TrlPpo, AdvantagesReturnsAndFigures) {
  const Oracle oracle = oracle_of(name());
  const Rollout r(oracle, options_of(variant()));
  for (int64_t k = 0; k < kCompletions; ++k) {
    const methods::PpoRow& row = r.rollout->row(k);
    EXPECT_LE(test::relative_error(row.advantages, oracle.at(fmt::format("advantages.{}.{}", variant(), k)).values), kBound) << k;
    const std::vector<double> returns(row.returns.begin(), row.returns.begin() + row.episodes[0].states());
    EXPECT_LE(test::relative_error(returns, oracle.at(fmt::format("returns.{}.{}", variant(), k)).values), kBound) << k;
  }
  int compared = 0;
  for (const auto& [key, value] : r.rollout->metrics()) {
    const auto wanted = oracle.find("metric." + variant() + "." + key);
    if (wanted == oracle.end()) continue;
    EXPECT_NEAR(value, wanted->second.values[0], kBound * std::max(1.0, std::abs(wanted->second.values[0]))) << key;
    ++compared;
  }
  EXPECT_EQ(compared, 6);
}

TEST_P(TrlPpo, LossesMetricsAndEveryGradient) {
  const Oracle oracle = oracle_of(name());
  const Rollout r(oracle, options_of(variant()));
  const auto order = values_of<int64_t>(oracle, "order." + variant());
  const int64_t updates = variant() == "plain" ? 2 : 1, size = kCompletions / updates;
  for (int64_t u = 0; u < updates; ++u) {
    const std::vector<int64_t> rows(order.begin() + u * size, order.begin() + (u + 1) * size);
    const auto policy = load_policy(name(), backend()), value = load_value(name(), backend());
    const Pass p = run(*policy, *r.policy, rows, 40), v = run(*value, *r.value, rows, 40);
    const auto near = [&](double got, const std::string& key) {
      const double wanted = oracle.at(fmt::format("{}.{}.{}", key, variant(), u)).values[0];
      EXPECT_NEAR(got, wanted, kBound * std::max(1.0, std::abs(wanted))) << key << " " << u;
    };
    near(p.sums.loss + v.sums.loss, "loss");
    near(metric(p.sums, "loss/policy_avg"), "pg_loss");
    near(metric(p.sums, "policy/clipfrac_avg"), "pg_clipfrac");
    near(metric(p.sums, "policy/approxkl_avg"), "approxkl");
    near(metric(p.sums, "policy/entropy_avg"), "entropy");
    near(metric(p.sums, "val/ratio"), "ratio");
    near(metric(v.sums, "loss/value_avg"), "vf_loss");
    near(metric(v.sums, "val/clipfrac_avg"), "vf_clipfrac");
    if (u > 0) continue;
    compare_gradients(*policy, policy->parameters(), oracle, "grad." + variant() + ".policy.");
    compare_gradients(*value, value->parameters(), oracle, "grad." + variant() + ".value.");
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, TrlPpo,
                         testing::Values(Case{"tied", "plain", ops::Backend::kernels}, Case{"tied", "plain", ops::Backend::reference},
                                         Case{"tied", "whitened", ops::Backend::kernels}, Case{"untied", "plain", ops::Backend::kernels}),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param) +
                                  (std::get<2>(info.param) == ops::Backend::kernels ? "_kernels" : "_reference");
                         });

const std::vector<int64_t> kAll{0, 1, 2, 3, 4, 5, 6, 7};

TEST(Ppo, TheMicroBatchBudgetChangesNoBit) {
  const Oracle oracle = oracle_of("tied");
  config::PpoOptions options = options_of("whitened");
  for (const bool in_loss : {false, true}) {
    options.kl_in_loss = in_loss;
    const Rollout r(oracle, options, /*entropy_coef=*/0.01);
    for (const bool values : {false, true}) {
      std::optional<Pass> first;
      for (const int64_t budget : {1, 30, 47, 100000}) {
        const auto model = values ? load_value("tied", ops::Backend::kernels) : load_policy("tied", ops::Backend::kernels);
        const methods::Method& method = values ? static_cast<const methods::Method&>(*r.value) : *r.policy;
        const Pass pass = run(*model, method, kAll, budget);
        if (!first) first = pass;
        EXPECT_TRUE(std::isfinite(pass.sums.loss));
        EXPECT_EQ(pass.sums.loss, first->sums.loss) << budget;
        EXPECT_EQ(pass.sums.metrics, first->sums.metrics) << budget;
        EXPECT_EQ(pass.gradients, first->gradients) << budget;
      }
    }
  }
}

// The loss of a mini-batch is the mean of its rows' sums over all its tokens: rows alone give the same sums, with their own counts.
TEST(Ppo, ABatchOfEightIsEightBatchesOfOne) {
  const Rollout r(oracle_of("tied"), options_of("plain"));
  for (const bool values : {false, true}) {
    const methods::Method& method = values ? static_cast<const methods::Method&>(*r.value) : *r.policy;
    const auto load = [&] { return values ? load_value("tied", ops::Backend::kernels) : load_policy("tied", ops::Backend::kernels); };
    const Pass all = run(*load(), method, kAll, 1000);
    const double count = method.counts(kAll)[0];
    double loss = 0;
    std::vector<double> gradients(all.gradients.size());
    for (const int64_t row : kAll) {
      const Pass one = run(*load(), method, {row}, 1000);
      const double share = method.counts(std::vector<int64_t>{row})[0] / count;
      loss += share * one.sums.loss;
      for (size_t i = 0; i < gradients.size(); ++i) gradients[i] += share * one.gradients[i];
    }
    EXPECT_NEAR(loss, all.sums.loss, 1e-12);  // float64 sums in two orders
    EXPECT_LE(test::relative_error(all.gradients, gradients), 1e-6) << "float32 chains in two orders";
  }
}

// What stands where nothing is learned must not be read: behind a cut, and everything about a completion without a score.
TEST(Ppo, JunkAtUnusedPositionsChangesNothing) {
  const Oracle oracle = oracle_of("tied");
  const config::PpoOptions options = options_of("whitened");
  Rollout clean(oracle, options, 0.01, 0.0), junk(oracle, options, 0.01, 1e30);
  std::vector<methods::Group> groups;
  for (int64_t k = 0; k < kCompletions; ++k) {
    methods::Group g{values_of<int32_t>(oracle, fmt::format("prompt.{}", k)), {Rollout::completion(oracle, k)}};
    methods::SampledCompletion unscored = g.completions[0];
    for (float& l : unscored.logprobs) l = NAN;
    for (int32_t& id : unscored.ids) id = 3;
    unscored.rewards = {std::nullopt};
    g.completions.insert(g.completions.begin() + k % 2, unscored);
    groups.push_back(g);
  }
  junk.state = methods::PpoState{.rollouts = 0, .kl_coef = options.kl_coef, .scores = {}};
  junk.policy->begin(groups);
  for (int64_t k = 0; k < kCompletions; ++k) {
    junk.rollout->reference().set(k, values_of<float>(oracle, fmt::format("ref_logprobs.{}", k)));
    std::vector<float> values = values_of<float>(oracle, fmt::format("values.{}", k));
    values.resize(static_cast<size_t>(junk.rollout->row(k).states()), NAN);
    junk.rollout->set_values(k, values);
  }
  junk.rollout->finish(junk.state);
  junk.rollout->fresh = false;
  const auto learned = [](const Rollout& r) {  // lengths and repetition speak of every completion, scored or not
    std::vector<std::pair<std::string, double>> metrics = r.rollout->metrics();
    std::erase_if(metrics, [](const auto& m) { return m.first.starts_with("completions/"); });
    return metrics;
  };
  EXPECT_EQ(learned(junk), learned(clean));
  EXPECT_TRUE(std::isnan(junk.policy->advantages(0)[0]));
  EXPECT_EQ(junk.policy->advantages(0)[1], clean.policy->advantages(0)[0]);
  const auto compare = [&](const methods::Method& a, const methods::Method& b, const auto& load) {
    const Pass x = run(*load("tied", ops::Backend::kernels), a, kAll, 40), y = run(*load("tied", ops::Backend::kernels), b, kAll, 40);
    EXPECT_EQ(x.sums.loss, y.sums.loss);
    EXPECT_EQ(x.sums.metrics, y.sums.metrics);
    EXPECT_EQ(x.gradients, y.gradients);
  };
  compare(*clean.policy, *junk.policy, load_policy);
  compare(*clean.value, *junk.value, load_value);
}

// Completions of one prompt stand as a tree: the same losses as apart, and gradients that sum the prompt once.
TEST(Ppo, AGroupIsATree) {
  const Oracle oracle = oracle_of("tied");
  config::PpoOptions options = options_of("plain");
  const auto prompt = values_of<int32_t>(oracle, "prompt.1");
  std::vector<Pass> passes;
  for (const bool values : {false, true})
    for (const int64_t max_tree_tokens : {4096, 1}) {
      methods::PpoState state{.rollouts = 0, .kl_coef = options.kl_coef, .scores = {}};
      const auto rollout = std::make_shared<methods::PpoRollout>(options, std::vector<double>{});
      methods::PpoPolicy policy(rollout, state, kTemperature, 0, max_tree_tokens);
      const methods::PpoValue value(rollout, max_tree_tokens);
      methods::Group group{prompt, {}};
      for (const int64_t k : {1, 3, 5}) group.completions.push_back(Rollout::completion(oracle, k));
      policy.begin({group});
      rollout->reference().set(0, std::vector<float>(rollout->row(0).predictions(), -3.0f));
      rollout->set_values(0, std::vector<float>(rollout->row(0).states(), 0.1f));
      rollout->finish(state);
      rollout->fresh = false;  // the fixture's old log-probabilities are not this model's
      const auto model = values ? load_value("tied", ops::Backend::kernels) : load_policy("tied", ops::Backend::kernels);
      passes.push_back(run(*model, values ? static_cast<const methods::Method&>(value) : policy, {0}, 1000));
    }
  for (const size_t i : {0, 2}) {
    EXPECT_EQ(passes[i].sums.loss, passes[i + 1].sums.loss);
    EXPECT_EQ(passes[i].sums.metrics, passes[i + 1].sums.metrics);
    EXPECT_LT(passes[i].sums.largest_micro_batch, passes[i + 1].sums.largest_micro_batch);
    EXPECT_LE(test::relative_error(passes[i].gradients, passes[i + 1].gradients), 1e-5) << "docs/numerics.md: the prompt's terms are summed once";
  }
}

}  // namespace trl_ppo_test
}  // namespace hone
