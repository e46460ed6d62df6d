// The arithmetic of the policy-gradient methods: estimators of a divergence against the exact one, losses against their derivatives,
// advantages of groups that are whole, partly scored and without spread.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "hone/methods/advantages.h"
#include "hone/methods/grpo_losses.h"
#include "hone/methods/rl_math.h"

namespace hone::methods {
namespace {

using config::OnPolicyOptions;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(RlMath, EstimatorsAgainstTheExactDivergence) {
  const std::vector<double> p{0.5, 0.2, 0.15, 0.1, 0.05}, q{0.35, 0.3, 0.1, 0.05, 0.2};
  double exact = 0, k1 = 0, k2 = 0, k3 = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double lp = std::log(p[i]), lq = std::log(q[i]);
    exact += p[i] * (lp - lq);
    k1 += p[i] * kl_k1(lp, lq);
    k2 += p[i] * kl_k2(lp, lq);
    k3 += p[i] * kl_k3(lp, lq);
    EXPECT_GE(kl_k3(lp, lq), 0);
    EXPECT_GE(kl_k2(lp, lq), 0);
  }
  EXPECT_NEAR(k1, exact, 1e-15);  // unbiased: the expectation over the whole vocabulary is the divergence; rounding of five terms
  EXPECT_NEAR(k3, exact, 1e-15);
  EXPECT_NEAR(k2, exact, 0.25 * exact);  // biased by the third order of the log-ratio
  EXPECT_GT(std::fabs(k2 - exact), 1e-3);
}

TEST(RlMath, K3IsSmoothAcrossItsSeries) {
  for (const double d : {-0.3, -0.0156, -0.01, -1e-4, 1e-9, 1e-5, 0.0156, 0.015626, 0.2, 3.0}) {
    const double wanted = std::expm1(d) - d;
    EXPECT_NEAR(kl_k3(0, d), wanted, 1e-13 * std::fabs(wanted) + 3e-16) << d;  // expm1(d) - d itself cancels to 2e-16
    EXPECT_NEAR(kl_k3_slope(0, d), -std::expm1(d), 4e-16 * (1 + std::exp(d))) << d;
  }
  EXPECT_TRUE(std::isnan(kl_k3(kNaN, 0)));
  EXPECT_EQ(kl_k3(-1.5, -1.5), 0);
}

TEST(RlMath, QuantileIsBetweenTwoValues) {
  EXPECT_EQ(quantile({3, 1, 2, 4}, 0), 1);
  EXPECT_EQ(quantile({3, 1, 2, 4}, 1), 4);
  EXPECT_DOUBLE_EQ(quantile({3, 1, 2, 4}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile({10, 20}, 0.25), 12.5);
  EXPECT_EQ(quantile({}, 0.5), 0);
  EXPECT_TRUE(std::isnan(quantile({1, kNaN}, 0.5)));
}

TEST(RlMath, StatisticsLeaveOutWhatIsMissing) {
  const Statistics s = statistics(std::vector<double>{1, kNaN, 3, kNaN, 8});
  EXPECT_EQ(s.count, 3);
  EXPECT_DOUBLE_EQ(s.mean, 4);
  EXPECT_DOUBLE_EQ(s.deviation, std::sqrt(13.0));
  EXPECT_TRUE(std::isnan(statistics(std::vector<double>{2}).deviation));
  EXPECT_TRUE(std::isnan(statistics(std::vector<double>{kNaN}).mean));
}

// The slopes of completion_loss are its derivatives: central differences in every token, for every loss, level and option.
TEST(GrpoLosses, SlopesAreDerivatives) {
  const std::vector<double> logprobs{-1.2, -0.4, -2.5, -0.9};
  const std::vector<float> old{-1.1f, -0.7f, -2.4f, -1.3f}, sampler{-1.0f, -0.75f, -2.2f, -1.2f}, reference{-1.4f, -0.5f, -2.0f, -0.8f};
  const std::vector<char> kept{1, 0, 1, 1};
  int checked = 0;
  for (const GrpoLoss& loss : grpo_losses())
    for (const double advantage : {1.3, -0.8, 0.0})
      for (int variant = 0; variant < 8; ++variant) {
        OnPolicyOptions o;
        o.epsilon_high = loss.name == "cispo" ? 1.2 : 0.25;
        if (variant & 1) o.importance_sampling_level = config::ImportanceLevel::sequence;
        if (variant & 2) o.importance_sampling_clip_max = 1.05;
        if (variant & 4) o.delta = 1.2;
        const double beta = variant & 2 ? 0.3 : 0;
        const auto value = [&](const std::vector<double>& at, std::span<double> slopes) {
          CompletionInputs c{at, old, {}, {}, kept, advantage};
          if (variant & 2) c.sampler = sampler, c.reference = reference;
          return completion_loss(loss, c, beta, o, slopes).value;
        };
        std::vector<double> slopes(4), unused(4);
        value(logprobs, slopes);
        if (loss.name == "cispo" || loss.name == "vespo") continue;  // their weight is a constant to the gradient: below
        for (size_t t = 0; t < 4; ++t) {
          std::vector<double> up = logprobs, down = logprobs;
          up[t] += 1e-6, down[t] -= 1e-6;
          EXPECT_NEAR(slopes[t], (value(up, unused) - value(down, unused)) / 2e-6, 1e-8) << loss.name << variant << " " << advantage;
          ++checked;
        }
      }
  EXPECT_EQ(checked, 6 * 3 * 8 * 4);
}

TEST(GrpoLosses, CispoAndVespoScaleTheScoreFunction) {
  OnPolicyOptions o;
  o.epsilon_high = 1.2;
  const TokenLoss far = find_grpo_loss("cispo")->loss({std::log(3.0), -2.0, 0.5}, o),
                  near = find_grpo_loss("cispo")->loss({std::log(0.5), -2.0, 0.5}, o);
  EXPECT_DOUBLE_EQ(far.by_logprob, -1.2 * 0.5);
  EXPECT_DOUBLE_EQ(far.value, 1.2 * 0.5 * 2.0);
  EXPECT_TRUE(far.high);
  EXPECT_DOUBLE_EQ(near.by_logprob, -0.5 * 0.5);
  EXPECT_FALSE(near.high);
  EXPECT_DOUBLE_EQ(vespo_phi(0, 1, o), 1);  // phi(1) = 1
  EXPECT_DOUBLE_EQ(vespo_phi(0, -1, o), 1);
  EXPECT_DOUBLE_EQ(vespo_phi(std::log(2.0), 1, o), std::exp(3.0) * 4 * std::exp(-6.0));
  EXPECT_EQ(vespo_phi(1e9, 1, o), 0);
  EXPECT_TRUE(std::isnan(vespo_phi(kNaN, 1, o)));
}

TEST(GrpoLosses, ClippingTakesTheGradientOnlyOnItsSide) {
  OnPolicyOptions o;
  o.epsilon_high = 0.28;
  const auto slope = [&](double ratio, double advantage) { return clipped_loss({std::log(ratio), 0, advantage}, o).by_weight; };
  EXPECT_EQ(slope(1.5, 1), 0);   // likelier already: no more push
  EXPECT_NE(slope(1.5, -1), 0);  // but it is pulled back
  EXPECT_EQ(slope(0.5, -1), 0);
  EXPECT_NE(slope(0.5, 1), 0);
  EXPECT_NE(slope(1.25, 1), 0);  // epsilon_high, not epsilon
  EXPECT_EQ(slope(1.0, 2), -2);
  o.delta = 1.4;
  EXPECT_EQ(slope(1.5, -1), 0);  // two-sided
  EXPECT_TRUE(std::isnan(clipped_loss({kNaN, 0, 1}, o).value));
}

Group group_of(const std::vector<std::vector<double>>& rewards) {
  Group g;
  g.prompt = {1};
  for (const std::vector<double>& of_completion : rewards) {
    SampledCompletion& c = g.completions.emplace_back();
    for (double r : of_completion) c.rewards.push_back(std::isnan(r) ? std::nullopt : std::optional(r));
  }
  return g;
}

TEST(Advantages, OfGroupsThatTeachNothingAreExactlyZero) {
  const std::vector<Group> groups{group_of({{0.1}, {0.1}, {0.1}}), group_of({{1.0}}), group_of({{kNaN}, {2}, {kNaN}}), group_of({{kNaN}, {kNaN}}),
                                  group_of({{0.1}, {kNaN}, {0.3}})};
  using config::AdvantageEstimator, config::ScaleRewards, config::RewardAggregation;
  for (const auto estimator : {AdvantageEstimator::group, AdvantageEstimator::rloo, AdvantageEstimator::reinforce_plus_plus})
    for (const auto scale : {ScaleRewards::group, ScaleRewards::batch, ScaleRewards::none})
      for (const auto sum : {RewardAggregation::sum_then_normalize, RewardAggregation::normalize_then_sum}) {
        OnPolicyOptions o;
        o.advantage_estimator = estimator, o.scale_rewards = scale, o.multi_objective_aggregation = sum;
        const ByGroup a = advantages_of(groups, o);
        for (size_t g : {0u, 1u, 2u, 3u})
          for (double x : a[g]) EXPECT_EQ(x, 0) << g;
        EXPECT_LT(a[4][0], 0);
        EXPECT_EQ(a[4][1], 0) << "unscored";
        EXPECT_GT(a[4][2], 0);
        EXPECT_FALSE(has_spread(groups[0], o));
        EXPECT_FALSE(has_spread(groups[2], o));
        EXPECT_TRUE(has_spread(groups[4], o));
      }
  const auto metrics = reward_metrics(groups, std::vector<std::string>{"x"}, {});
  EXPECT_EQ(metrics[2], (std::pair<std::string, double>{"frac_reward_zero_std", 0.8}));
}

TEST(Advantages, KnownValues) {
  const std::vector<Group> groups{group_of({{1}, {0}, {0}, {1}}), group_of({{2}, {0}, {kNaN}, {1}})};
  OnPolicyOptions o;
  ByGroup a = advantages_of(groups, o);
  EXPECT_DOUBLE_EQ(a[0][0], 0.5 / (std::sqrt(1.0 / 3) + 1e-4));
  EXPECT_DOUBLE_EQ(a[1][0], 1.0 / (1 + 1e-4));
  o.scale_rewards = config::ScaleRewards::none;
  a = advantages_of(groups, o);
  EXPECT_DOUBLE_EQ(a[1][1], -1);
  o.advantage_estimator = config::AdvantageEstimator::rloo;
  a = advantages_of(groups, o);
  EXPECT_DOUBLE_EQ(a[0][0], 1 - 1.0 / 3);
  EXPECT_DOUBLE_EQ(a[1][0], 2 - 0.5);
  EXPECT_EQ(a[1][2], 0);
  o.advantage_estimator = config::AdvantageEstimator::reinforce_plus_plus;
  a = advantages_of(groups, o);
  const double deviation = statistics(std::vector<double>{.5, -.5, -.5, .5, 1, -1, 0}).deviation;
  EXPECT_NEAR(a[1][0], 1 / (deviation + 1e-4), 1e-12);
  const ByGroup alone = advantages_of(std::vector<Group>{group_of({{1}}), group_of({{0}}), group_of({{1}})}, o);  // REINFORCE++ itself
  EXPECT_GT(alone[0][0], 0);
  EXPECT_LT(alone[1][0], 0);
}

// One reward broke on a sample: the other's number does not make it a bad one of its group.
TEST(Advantages, ASampleThatARewardBrokeOnIsLeftOut) {
  methods::Group group;
  for (const auto& [math, code] : std::vector<std::pair<double, std::optional<double>>>{{1, 1.0}, {1, std::nullopt}, {0, 0.0}}) {
    methods::SampledCompletion& c = group.completions.emplace_back();
    c.rewards = {math, code};
    c.broken = !code;
  }
  const std::vector<double> sums = methods::weighted_rewards(group, {});
  EXPECT_EQ(sums[0], 2);
  EXPECT_TRUE(std::isnan(sums[1]));
  EXPECT_EQ(sums[2], 0);
  group.completions[1].broken = false;  // it gave none of its own will, as TRL's None
  EXPECT_EQ(methods::weighted_rewards(group, {})[1], 1);
}

TEST(Advantages, LengthsAsTrlReportsThem) {
  Group g;
  for (const auto& [n, cut] : {std::pair(4, false), {9, true}, {2, false}}) {
    g.completions.emplace_back().ids.resize(n);
    g.completions.back().truncated = cut;
  }
  std::vector<double> values;
  for (const auto& [name, value] : length_metrics(std::span(&g, 1))) values.push_back(value);
  EXPECT_EQ(values, (std::vector<double>{5, 2, 9, 3, 2, 4, 1 - 2.0 / 3}));
}

}  // namespace
}  // namespace hone::methods
