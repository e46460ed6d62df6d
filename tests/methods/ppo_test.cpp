// PPO's pure functions: GAE against its definition as a double sum, the clipped losses against finite differences, whitening, adaptive KL.
#include "hone/methods/ppo.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace hone {
namespace {

// A_t = sum_l (gamma lam)^l delta_{t+l}, written out: the definition (arXiv:1506.02438, eq. 16) instead of the recursion.
std::vector<double> advantages_by_definition(const std::vector<double>& rewards, const std::vector<double>& values, double gamma, double lam) {
  const size_t n = rewards.size();
  std::vector<double> out(n);
  for (size_t t = 0; t < n; ++t)
    for (size_t l = 0; t + l < n; ++l) {
      const double next = t + l + 1 < n ? values[t + l + 1] : 0.0;
      out[t] += std::pow(gamma * lam, static_cast<double>(l)) * (rewards[t + l] + gamma * next - values[t + l]);
    }
  return out;
}

TEST(Gae, IsItsDefinition) {
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  for (const auto& [gamma, lam] : std::vector<std::pair<double, double>>{{1, 0.95}, {0.97, 0.9}, {1, 1}, {1, 0}, {0, 0.5}})
    for (const size_t n : {1, 2, 17}) {
      std::vector<double> rewards(n), values(n);
      for (size_t i = 0; i < n; ++i) rewards[i] = normal(random), values[i] = normal(random);
      const methods::Gae g = methods::gae(rewards, values, gamma, lam);
      const std::vector<double> wanted = advantages_by_definition(rewards, values, gamma, lam);
      for (size_t t = 0; t < n; ++t) {
        EXPECT_NEAR(g.advantages[t], wanted[t], 1e-12);  // the same sum in another order
        EXPECT_NEAR(g.returns[t], wanted[t] + values[t], 1e-12);
      }
    }
}

TEST(Gae, LambdaOneGivesTheSumOfRewardsAndZeroTheOneStepError) {
  const std::vector<double> rewards{1, 2, 4}, values{0.5, -1, 3};
  EXPECT_EQ(methods::gae(rewards, values, 1, 1).returns, (std::vector<double>{7, 6, 4}));
  EXPECT_EQ(methods::gae(rewards, values, 1, 0).advantages, (std::vector<double>{1 - 1 - 0.5, 2 + 3 + 1, 4 - 3}));
}

methods::SampledCompletion sampled(int64_t tokens, bool truncated, double score) {
  methods::SampledCompletion c;
  c.ids.assign(tokens, 5);
  c.logprobs.assign(tokens, -1.0f);
  c.truncated = truncated;
  c.rewards = {score};
  return c;
}

// A finished episode is scored in the state behind its end token, which has a value of its own; a cut one at its last token.
TEST(PpoRollout, CutAndFinishedEpisodes) {
  config::PpoOptions options;
  options.gamma = 0.9, options.lam = 0.8, options.kl_coef = 0.5;
  methods::PpoState state{.rollouts = 0, .kl_coef = options.kl_coef, .scores = {}};
  methods::PpoRollout rollout(options, {2.0});
  rollout.begin({{{1, 2}, {sampled(2, false, 3), sampled(3, true, -1)}}}, state);
  rollout.reference().set(0, {-1.5f, -0.5f, -2.0f, -1.0f, -1.0f});
  rollout.set_values(0, {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, NAN});
  rollout.finish(state);
  const std::vector<double> finished_values{0.1f, 0.2f, 0.3f}, cut_values{0.4f, 0.5f, 0.6f};
  const auto finished = advantages_by_definition({-0.25, 0.25, 6}, finished_values, 0.9, 0.8);
  const auto cut = advantages_by_definition({-0.5, 0, -2}, cut_values, 0.9, 0.8);
  const methods::PpoRow& row = rollout.row(0);
  ASSERT_EQ(row.returns.size(), 7u);
  for (size_t t = 0; t < 3; ++t) EXPECT_NEAR(row.returns[t], finished[t] + finished_values[t], 1e-12);
  for (size_t t = 0; t < 3; ++t) EXPECT_NEAR(row.returns[3 + t], cut[t] + cut_values[t], 1e-12);
  std::vector<double> wanted{finished[0], finished[1], cut[0], cut[1], cut[2]};
  double mean = 0, squares = 0;
  for (double w : wanted) mean += w / 5;
  for (double w : wanted) squares += (w - mean) * (w - mean);
  for (size_t t = 0; t < 5; ++t) EXPECT_NEAR(row.advantages[t], (wanted[t] - mean) / std::sqrt(squares / 4 + 1e-8), 1e-12);
}

TEST(PpoRollout, ScoresAreScaledThenClippedThenPenalised) {
  config::PpoOptions options;
  options.use_score_scaling = options.use_score_norm = true;
  options.reward_clip = 0.5, options.missing_eos_penalty = 2.0;
  methods::PpoState state;
  methods::PpoRollout rollout(options, {});
  rollout.begin({{{1}, {sampled(1, false, 1), sampled(1, true, 5), sampled(1, false, 3)}}}, state);
  const auto& episodes = rollout.row(0).episodes;  // mean 3, deviation 2
  EXPECT_EQ(episodes[0].score, -0.5);
  EXPECT_EQ(episodes[1].score, 0.5 - 2.0);
  EXPECT_NEAR(episodes[2].score, 0.0, 1e-12);
  rollout.begin({{{1}, {sampled(1, false, 3)}}}, state);
  EXPECT_EQ(state.scores.count, 4) << "the statistics go on from rollout to rollout";
}

// While all scores are the same there is no deviation to divide by.
TEST(PpoRollout, ScoresWithoutSpreadAreNotScaled) {
  config::PpoOptions options;
  options.use_score_scaling = true;
  methods::PpoState state;
  methods::PpoRollout rollout(options, {});
  rollout.begin({{{1}, {sampled(1, false, 1)}}}, state);
  EXPECT_EQ(rollout.row(0).episodes[0].score, 1);
  rollout.begin({{{1}, {sampled(1, false, 1), sampled(1, false, 1)}}}, state);
  EXPECT_EQ(rollout.row(0).episodes[0].score, 1);
}

// The coefficient of a rollout comes from the KL of the one before it, nats a completion: above the target it rises, by the share of the horizon
// that its completions are; while only the value model learns it stays.
TEST(PpoRollout, TheCoefficientFollowsTheKlOfTheRolloutBefore) {
  config::PpoOptions options;
  options.kl_coef = 0.5, options.kl_target = 1.0, options.kl_horizon = 20, options.critic_warmup = 1;
  methods::PpoState state{.rollouts = 0, .kl_coef = options.kl_coef, .scores = {}};
  methods::PpoRollout rollout(options, {});
  const auto one = [&](float reference) {
    rollout.begin({{{1}, {sampled(2, false, 1), sampled(2, false, 3)}}}, state);
    rollout.reference().set(0, {reference, reference, reference, reference});
    rollout.set_values(0, std::vector<float>(6, 0.0f));
    rollout.finish(state);
    return rollout.kl_coef();
  };
  EXPECT_EQ(one(-9.0f), 0.5);
  EXPECT_EQ(one(-1.55f), 0.5) << "the one before was a warm-up";
  EXPECT_NEAR(one(-1.45f), 0.5 * (1 + 0.1 * 2 / 20), 1e-6) << "1.1 nats a completion of two tokens: a tenth above the target";
  EXPECT_NEAR(one(-1.5f), 0.5 * (1 + 0.1 * 2 / 20) * (1 - 0.1 * 2 / 20), 1e-6) << "0.9 nats";
}

// d loss / d logprob and d loss / d entropy of the policy's loss with the KL in it and an entropy bonus, against the loss written out.
TEST(PpoPolicy, KlInTheLossAndTheEntropyBonusHaveTheirGradients) {
  config::PpoOptions options;
  options.kl_coef = 0.5, options.kl_in_loss = true, options.kl_estimator = config::KlEstimator::k3;
  const double entropy_coef = 0.3;
  methods::PpoState state{.rollouts = 0, .kl_coef = options.kl_coef, .scores = {}};
  const auto rollout = std::make_shared<methods::PpoRollout>(options, std::vector<double>{});
  methods::PpoPolicy policy(rollout, state, 1.0, entropy_coef, 64);
  policy.begin({{{1, 2}, {sampled(2, false, 3), sampled(1, true, -1)}}});
  const std::vector<float> reference{-1.5f, -0.5f, -2.0f};
  rollout->reference().set(0, reference);
  rollout->set_values(0, {0.1f, 0.2f, 0.3f, 0.4f, 0.0f});
  policy.referenced();
  policy.update(1);
  const std::vector<double> logprobs{-1.1, -0.9, -1.05};  // within the clip range of -1
  at::Tensor values = at::tensor(logprobs, at::kFloat).requires_grad_(true), entropy = at::tensor({2.0f, 1.0f, 3.0f}).requires_grad_(true);
  const std::vector<int64_t> rows{0};
  methods::Forward forward;
  forward.logprobs.logprobs = values;
  forward.logprobs.entropy = entropy;
  forward.sequence_ids = at::tensor({0, 0, 1}, at::kLong);
  forward.weights = at::ones({3});
  forward.num_sequences = 2;
  forward.rows = rows;
  const methods::MethodOutput out = policy.evaluate(forward, {policy.counts(rows), {}});
  at::Tensor loss = out.losses.at(0).values.sum();
  loss.backward();
  const auto written_out = [&](size_t t, double l) {
    const double d = reference[t] - l;
    return -rollout->row(0).advantages[t] * std::exp(l + 1) + 0.5 * (std::exp(d) - 1 - d);
  };
  double total = -entropy_coef * 6.0;
  for (size_t t = 0; t < 3; ++t) {
    total += written_out(t, logprobs[t]);
    const double h = 1e-5, slope = (written_out(t, logprobs[t] + h) - written_out(t, logprobs[t] - h)) / (2 * h);
    EXPECT_NEAR(values.grad()[static_cast<int64_t>(t)].item<double>(), slope, 1e-6 * std::max(1.0, std::abs(slope)));  // float32 slopes
    EXPECT_NEAR(entropy.grad()[static_cast<int64_t>(t)].item<double>(), -entropy_coef, 1e-7);
  }
  EXPECT_NEAR(loss.item<double>(), total, 1e-6);
}

TEST(PpoRollout, UnscoredCompletionsAreLeftOut) {
  methods::PpoState state;
  methods::PpoRollout rollout({}, {});
  methods::SampledCompletion unscored = sampled(4, false, 0);
  unscored.rewards = {std::nullopt};
  rollout.begin({{{1}, {unscored}}, {{1}, {unscored, sampled(2, false, 1)}}}, state);
  EXPECT_EQ(rollout.row(0).predictions(), 0);
  EXPECT_EQ(rollout.row(1).predictions(), 2);
  EXPECT_EQ(rollout.row(1).episodes[0].sample, 1);
}

TEST(PpoLosses, ClippedPolicyLossAndItsDerivative) {
  for (const double advantage : {1.3, -0.7, 0.0})
    for (const double difference : {-3.0, -0.4, -0.1, 0.0, 0.1, 0.4, 2.0})
      for (const double dual : {0.0, 3.0}) {
        const double h = 1e-6;
        const auto at = [&](double d) { return methods::clipped_policy_loss(-2 + d, -2, advantage, 0.2, dual).loss; };
        const methods::ClippedLoss loss = methods::clipped_policy_loss(-2 + difference, -2, advantage, 0.2, dual);
        const double ratio = std::exp(difference);
        double wanted = std::max(-advantage * ratio, -advantage * std::min(1.2, std::max(0.8, ratio)));
        if (dual > 0 && advantage < 0) wanted = std::min(wanted, -advantage * dual);
        EXPECT_NEAR(loss.loss, wanted, 1e-12);
        EXPECT_NEAR(loss.slope, (at(difference + h) - at(difference - h)) / (2 * h), 1e-7);  // central differences of a smooth piece
      }
  EXPECT_TRUE(std::isnan(methods::clipped_policy_loss(NAN, -1, 1, 0.2, 3).loss));
}

TEST(PpoLosses, ClippedValueLossAndItsDerivative) {
  for (const double target : {-1.0, 0.05, 2.0})
    for (const double value : {-1.5, -0.15, 0.1, 0.25, 1.7}) {
      const double h = 1e-6, near = std::min(0.2, std::max(-0.2, value));
      const auto at = [&](double v) { return methods::clipped_value_loss(v, 0, target, 0.2).loss; };
      const methods::ClippedLoss loss = methods::clipped_value_loss(value, 0, target, 0.2);
      EXPECT_NEAR(loss.loss, 0.5 * std::max((value - target) * (value - target), (near - target) * (near - target)), 1e-14);
      EXPECT_NEAR(loss.slope, (at(value + h) - at(value - h)) / (2 * h), 1e-7);
    }
  EXPECT_TRUE(std::isnan(methods::clipped_value_loss(NAN, 0, 1, 0.2).loss));
}

TEST(Whiten, HasMeanZeroAndVarianceOneAndKeepsTheMeanWhereAsked) {
  std::vector<double> values{1, 2, 4, 9}, kept = values, single{3};
  methods::whiten(values, true);
  methods::whiten(kept, false);
  double mean = 0, squares = 0;
  for (double v : values) mean += v / 4;
  for (double v : values) squares += v * v;
  EXPECT_NEAR(mean, 0, 1e-15);
  EXPECT_NEAR(squares / 3, 1, 1e-8);  // the 1e-8 under the root
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(kept[i], values[i] + 4, 1e-14);
  methods::whiten(single, true);
  EXPECT_EQ(single[0], 0);
}

TEST(ExplainedVariance, OfPerfectConstantAndWorse) {
  const std::vector<double> returns{1, 2, 3}, constant{5, 5, 5}, reversed{3, 2, 1};
  EXPECT_EQ(methods::explained_variance(returns, returns), 1);
  EXPECT_EQ(methods::explained_variance(returns, constant), 0);
  EXPECT_EQ(methods::explained_variance(returns, reversed), -3);
  EXPECT_TRUE(std::isnan(methods::explained_variance(constant, returns)));
}

TEST(TokenKl, EstimatorsAgreeWithTheExactDivergenceInTheMean) {
  const std::vector<double> p{0.5, 0.3, 0.15, 0.05}, q{0.25, 0.25, 0.25, 0.25};
  double exact = 0, k1 = 0, k3 = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    exact += p[i] * std::log(p[i] / q[i]);
    k1 += p[i] * methods::token_kl(std::log(p[i]), std::log(q[i]), false);
    k3 += p[i] * methods::token_kl(std::log(p[i]), std::log(q[i]), true);
    EXPECT_GE(methods::token_kl(std::log(p[i]), std::log(q[i]), true), 0);
  }
  EXPECT_NEAR(k1, exact, 1e-14);
  for (const double d : {1e-9, -1e-9, 3e-12}) EXPECT_NEAR(methods::token_kl(-d, 0, true), d * d / 2, 1e-6 * d * d) << "does not cancel";
  EXPECT_NEAR(k3, exact, 1e-14);
}

// A policy over ten actions that moves half way, each rollout, to the optimum of E[reward] - coefficient KL, which is reference * exp(reward /
// coefficient): the controller must find the coefficient whose optimum has the wanted KL, from both sides.
TEST(AdaptiveKl, ReachesItsTargetOnAToyProblem) {
  for (const double start : {0.01, 20.0})
    for (const double target : {0.1, 0.5}) {
      std::vector<double> log_policy(10, std::log(0.1));
      double coefficient = start, kl = 0;
      for (int rollout = 0; rollout < 400; ++rollout) {
        double total = 0;
        for (int a = 0; a < 10; ++a) log_policy[a] = 0.5 * log_policy[a] + 0.5 * (std::log(0.1) + a / 10.0 / coefficient);
        for (const double l : log_policy) total += std::exp(l);
        kl = 0;
        for (double& l : log_policy) {
          l -= std::log(total);
          kl += std::exp(l) * methods::token_kl(l, std::log(0.1), false);
        }
        coefficient = methods::adapted_kl_coef(coefficient, kl, target, 64, 256);
      }
      EXPECT_NEAR(kl, target, 0.01 * target) << "from " << start;
    }
}

}  // namespace
}  // namespace hone
