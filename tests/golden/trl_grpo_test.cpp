// GRPO and RLOO against TRL's GRPOTrainer and RLOOTrainer in float64 (make_trl_grpo.py): advantages, loss, metrics and every gradient of every
// loss type and option, for fixed completions.
#include <gtest/gtest.h>

#include "hone/methods/advantages.h"
#include "hone/methods/grpo.h"
#include "hone/methods/rloo.h"
#include "hone/train/micro_batch.h"
#include "support/golden_model.h"

namespace hone {
namespace trl_grpo_test {

// float32 against a float64 oracle, in the Euclidean norm of each tensor: the bound.
constexpr double kBound = 1e-5;
constexpr int64_t kCut = 11;
const std::vector<int64_t> kAll{0, 1, 2};

using Oracle = std::map<std::string, golden::OracleTensor>;
using Options = config::RunConfig;
using Change = std::function<void(Options&)>;

const Oracle& oracle() {
  static const Oracle all = golden::read_oracle(golden::golden_path("trl_grpo") / "oracle.safetensors");
  return all;
}

const std::vector<double>& values(const std::string& name) { return oracle().at(name).values; }

std::vector<int32_t> ids(const std::string& name) { return {values(name).begin(), values(name).end()}; }

std::vector<methods::Group> groups() {
  std::vector<methods::Group> all;
  auto old = values("old").begin(), sampler = values("sampler").begin();
  for (int g = 0; g < 3; ++g) {
    methods::Group& group = all.emplace_back();
    group.prompt = ids(fmt::format("prompt.{}", g));
    for (int k = 4 * g; k < 4 * g + 4; ++k) {
      methods::SampledCompletion& c = group.completions.emplace_back();
      c.ids = ids(fmt::format("completion.{}", k));
      c.truncated = c.ids.back() != 2;
      const auto n = static_cast<int64_t>(c.ids.size());
      c.logprobs.assign(old, old + n);
      c.sampler_logprobs.assign(sampler, sampler + n);
      old += n, sampler += n;
      for (int reward = 0; reward < 2; ++reward) {
        const double r = values("rewards")[2 * k + reward];
        c.rewards.push_back(std::isnan(r) ? std::nullopt : std::optional(r));
      }
    }
  }
  return all;
}

// As GRPO and RLOO in make_trl_grpo.py; old log-probabilities are given.
Options base(double temperature = 0.8) {
  Options o;
  o.temperature = temperature;
  o.beta = 0;
  o.reward_weights = {1.0, 0.5};
  o.max_completion_length = kCut;
  o.num_iterations = 2;
  return o;
}

void fill_reference(methods::GroupMethod& method, const std::vector<methods::Group>& groups, bool mask) {
  if (!method.reference()) return;
  auto ref = values("ref").begin();
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<float> row;
    for (const methods::SampledCompletion& c : groups[g].completions) {
      const auto n = static_cast<int64_t>(c.ids.size());
      if (!(mask && c.truncated)) row.insert(row.end(), ref, ref + n);
      ref += n;
    }
    method.reference()->set(static_cast<int64_t>(g), row);
  }
}

template <class M>
std::unique_ptr<M> prepared(const Options& o) {
  auto method = std::make_unique<M>(o, std::vector<std::string>{"a", "b"});
  method->begin(groups());
  fill_reference(*method, groups(), o.mask_truncated_completions);
  method->referenced();
  return method;
}

std::map<std::string, Change> loss_cases() {
  using config::ImportanceLevel, config::ImportanceMode;
  std::map<std::string, Change> cases;
  const auto sequence = [](Options& o) { o.importance_sampling_level = ImportanceLevel::sequence; };
  for (const methods::GrpoLoss& loss : methods::grpo_losses()) {
    const std::string name(loss.name);
    const auto own = [name](Options& o) { o.loss_type = {name}, o.epsilon_high = name == "cispo" ? 1.25 : 0.28; };
    cases[name + "_token"] = own;
    cases[name + "_sequence"] = [=](Options& o) { own(o), sequence(o); };
    cases[name + "_on_policy"] = [=](Options& o) { own(o), o.num_iterations = 1; };
    cases[name + "_masked"] = [=](Options& o) { own(o), o.mask_truncated_completions = true; };
    cases[name + "_rest"] = [=](Options& o) {
      own(o), o.beta = 0.3, o.entropy_coef = 0.05, o.top_entropy_quantile = 0.6, o.importance_sampling_clip_max = 1.1;
    };
  }
  const std::pair<std::string, Change> levels[] = {{"token", [](Options&) {}}, {"sequence", sequence}};
  for (const auto& [level, set] : levels) {
    cases["delta_" + level] = [set = set](Options& o) { set(o), o.epsilon_high = 0.3, o.delta = 1.15; };
    cases["beta_" + level] = [set = set](Options& o) { set(o), o.beta = 0.2; };
    cases["beta_plain_" + level] = [set = set](Options& o) { set(o), o.beta = 0.2, o.use_bias_correction_kl = false; };
  }
  cases["beta_on_policy"] = [](Options& o) { o.beta = 0.2, o.num_iterations = 1; };
  cases["entropy"] = [](Options& o) { o.entropy_coef = 0.1; };
  cases["quantile"] = [](Options& o) { o.top_entropy_quantile = 0.35; };
  cases["third"] = [](Options&) {};
  cases["third_masked"] = [](Options& o) { o.loss_type = {"cispo"}, o.epsilon_high = 1.25, o.mask_truncated_completions = true; };
  const auto mode = [&](const char* name, ImportanceMode m, bool tokens) {
    cases[name] = [=](Options& o) {
      o.importance_sampling_mode = m, o.importance_sampling_clip_max = 1.3;
      if (tokens) o.importance_sampling_clip_min = 0.8;
    };
  };
  mode("token_truncate", ImportanceMode::token_truncate, true);
  mode("token_mask", ImportanceMode::token_mask, true);
  mode("sequence_truncate", ImportanceMode::sequence_truncate, false);
  mode("sequence_mask", ImportanceMode::sequence_mask, false);
  cases["vespo_sequence_mask"] = [](Options& o) {
    o.loss_type = {"vespo"}, o.importance_sampling_mode = ImportanceMode::sequence_mask, o.importance_sampling_clip_max = 1.3;
  };
  return cases;
}

std::map<std::string, Change> rloo_cases() {
  return {{"rloo", [](Options&) {}},
          {"rloo_beta", [](Options& o) { o.beta = 0.05, o.epsilon_high = 0.3; }},
          {"rloo_normalized", [](Options& o) { o.normalize_advantages = true, o.beta = 0.1; }},
          {"rloo_clipped",
           [](Options& o) {
             o.reward_clip_range = {-0.1, 0.6};
           }},
          {"rloo_masked", [](Options& o) { o.mask_truncated_completions = true, o.beta = 0.05; }}};
}

// The oracle's figures PREFIX.NAME/KEY.
std::map<std::string, double> figures(const std::string& prefix) {
  std::map<std::string, double> all;
  for (auto it = oracle().lower_bound(prefix + "/"); it != oracle().end() && it->first.starts_with(prefix + "/"); ++it)
    all[it->first.substr(prefix.size() + 1)] = it->second.values[0];
  return all;
}

void expect_close(double value, double wanted, const std::string& what) {
  EXPECT_NEAR(value, wanted, kBound * std::max(1.0, std::abs(wanted))) << what;
}

void expect_advantages(const methods::GroupMethod& method, const std::string& name) {
  std::vector<double> ours;
  for (int64_t row : kAll)
    for (double a : method.advantages(row)) ours.push_back(a);
  ASSERT_EQ(ours.size(), 12u);
  for (size_t i = 0; i < ours.size(); ++i)
    EXPECT_NEAR(ours[i], values("advantages." + name)[i], 1e-7) << name << " " << i;  // TRL corrects a deviation in float32
}

void expect_same(const std::string& name, const methods::Method& method, std::span<const int64_t> rows, ops::Backend backend) {
  const auto model = test::load_golden("models/chat", backend);
  for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
  const train::StepSums sums = train::run_rows(*model, method, rows, {40, true, false});
  EXPECT_NEAR(sums.loss, values("loss." + name)[0], kBound * std::max(0.1, std::abs(values("loss." + name)[0]))) << name;
  std::map<std::string, double> ours(sums.metrics.begin(), sums.metrics.end());
  for (const auto& [key, wanted] : figures("metric." + name)) {
    ASSERT_TRUE(ours.contains(key)) << name << " " << key;
    // TRL's mean has the weight 1 for each of the two completions without a trained token; ours leaves them out.
    const bool diluted = name == "vespo_masked" && key == "vespo/phi_seq_mean";
    expect_close(diluted ? (10 * ours.at(key) + 2) / 12 : ours.at(key), wanted, name + " " + key);
  }
  int compared = 0;
  for (const ops::Parameter* p : model->parameters())
    for (const ops::Part& part : p->parts) {
      const auto gradient = oracle().find("grad." + name + "." + part.name);
      if (gradient == oracle().end() && part.name == "model.embed_tokens.weight") continue;
      ASSERT_NE(gradient, oracle().end()) << part.name;
      EXPECT_LE(test::relative_error(test::gradient_of(*p, part), gradient->second.values), kBound) << name << " " << part.name;
      ++compared;
    }
  EXPECT_GE(compared, 19) << "two layers of nine tensors, the last norm";
}

class TrlGrpo : public testing::TestWithParam<ops::Backend> {};

TEST_P(TrlGrpo, LossMetricsAndEveryGradient) {
  for (const auto& [name, change] : loss_cases()) {
    Options o = base();
    change(o);
    const auto method = prepared<methods::Grpo>(o);
    expect_same(name, *method, name.starts_with("third") ? std::span(kAll).first(1) : std::span(kAll), GetParam());
  }
}

TEST_P(TrlGrpo, RlooLossMetricsAndEveryGradient) {
  for (const auto& [name, change] : rloo_cases()) {
    Options o = base();
    change(o);
    expect_same(name, *prepared<methods::Rloo>(o), kAll, GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, TrlGrpo, testing::Values(ops::Backend::kernels, ops::Backend::reference),
                         [](const auto& info) { return info.param == ops::Backend::kernels ? "kernels" : "reference"; });

TEST(TrlGrpo, EveryCaseOfTheOracleIsCompared) {
  const auto grpo = loss_cases(), rloo = rloo_cases();
  int cases = 0;
  for (const auto& [key, tensor] : oracle())
    if (key.starts_with("loss.")) {
      EXPECT_TRUE(grpo.contains(key.substr(5)) || rloo.contains(key.substr(5))) << key;
      ++cases;
    }
  EXPECT_EQ(cases, static_cast<int>(grpo.size() + rloo.size()));
}

TEST(TrlGrpo, AdvantagesAndFiguresOfTheRollout) {
  const std::map<std::string, Change> cases{
      {"scale_group", [](Options&) {}},
      {"scale_batch", [](Options& o) { o.scale_rewards = config::ScaleRewards::batch; }},
      {"scale_none", [](Options& o) { o.scale_rewards = config::ScaleRewards::none; }},
      {"weights",
       [](Options& o) {
         o.reward_weights = {0.25, 2.0};
       }},
      {"normalize_then_sum", [](Options& o) { o.multi_objective_aggregation = config::RewardAggregation::normalize_then_sum; }}};
  for (const auto& [name, change] : cases) {
    Options o = base();
    change(o);
    const auto method = prepared<methods::Grpo>(o);
    expect_advantages(*method, name);
    std::map<std::string, double> ours;
    for (const auto& [key, value] : method->rollout_metrics()) ours[key] = value;
    for (const auto& [key, wanted] : figures("rollout." + name)) {
      if (key.starts_with("sampling/")) continue;
      ASSERT_TRUE(ours.contains(key)) << name << " " << key;
      EXPECT_NEAR(ours.at(key), wanted, 1e-7) << name << " " << key;  // as above
    }
  }
  for (const auto& [name, change] : rloo_cases()) {
    Options o = base();
    change(o);
    const auto method = prepared<methods::Rloo>(o);
    expect_advantages(*method, name);
    std::map<std::string, double> ours;
    for (const auto& [key, value] : method->rollout_metrics()) ours[key] = value;
    for (const auto& [key, wanted] : figures("rollout." + name)) expect_close(ours[key], wanted, name + " " + key);
  }
}

}  // namespace trl_grpo_test
}  // namespace hone
