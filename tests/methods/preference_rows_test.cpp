// How pairs and labelled rows become sequences, and what is counted of them.
#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/methods/dpo.h"
#include "hone/methods/kto.h"
#include "hone/methods/orpo.h"
#include "support/preferences.h"

namespace hone::methods {
namespace {

using Ids = std::vector<int32_t>;

TEST(Pairs, OneTreeAPair) {
  test::TokenRows tokens;
  const std::vector<data::PairRow> rows{{tokens.add({1, 2, 3}, {7, 8, 9}), tokens.add({1, 2, 3}, {7, 5}), 0.0},
                                        {tokens.add({4}, {5, 6}), tokens.add({4}, {6, 6, 6, 6}), 0.0}};
  const Dpo dpo(rows, {}, 100), flat(rows, {}, 5);
  EXPECT_EQ(dpo.row_tokens(0), 7);  // 1 2 3 7, then 8 9 and 5
  EXPECT_EQ(flat.row_tokens(0), 11);
  EXPECT_EQ(dpo.input_tokens(0), 11);
  EXPECT_EQ(dpo.counts(std::vector<int64_t>{0, 1}), (std::vector<double>{2, 2, 5, 6}));
  batch::PackedBatch packed;
  dpo.append(packed, 0);
  batch::validate(packed);
  EXPECT_EQ(packed.targets, (std::vector<int64_t>{7, 8, 9, 7, 5}));
  EXPECT_EQ(packed.sequence_ids, (std::vector<int64_t>{0, 0, 0, 1, 1}));
}

// A forward of these rows with the log-probabilities that are given, and nothing else in it.
Forward forward_of(const Method& method, std::span<const int64_t> rows, const at::Tensor& logprobs) {
  batch::PackedBatch packed;
  for (int64_t row : rows) method.append(packed, row);
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  const at::Tensor zeros = at::zeros_like(logprobs.detach());
  return {{logprobs, zeros, zeros, zeros, zeros.to(at::kBool)}, {}, {}, tensors.sequence_ids, tensors.weights, tensors.num_sequences, rows, 0};
}

TEST(Dpo, MetricsOfTwoPairs) {
  test::TokenRows tokens;
  Dpo dpo({{tokens.add({1}, {2, 3}), tokens.add({1}, {4}), 0.0}, {tokens.add({5, 6}, {7}), tokens.add({5, 6}, {8, 9}), 0.0}}, {}, 100);
  dpo.reference()->set(0, {-1.5f, -1.0f, -2.5f});
  dpo.reference()->set(1, {-1.25f, -1.0f, -1.5f});
  const std::vector<int64_t> rows{0, 1};
  const MethodOutput out = dpo.evaluate(forward_of(dpo, rows, at::tensor({-1.0f, -2.0f, -3.0f, -0.5f, -1.0f, -1.0f})), {dpo.counts(rows), {}});
  std::map<std::string, double> metrics;
  for (const Term& t : out.metrics) metrics[t.name] = t.values.sum().item<double>() / t.count;
  const auto k = [](double d) { return std::exp(d) - 1 - d; };  // of d = log ref - log pi
  const std::map<std::string, double> wanted{{"logps/chosen", -3.5 / 2},
                                             {"logps/rejected", -5.0 / 2},
                                             {"rewards/chosen", 0.1 * (-0.5 + 0.75) / 2},
                                             {"rewards/rejected", 0.1 * (-0.5 + 0.5) / 2},
                                             {"rewards/accuracies", 0.5},
                                             {"rewards/margins", 0.1 * 0.25 / 2},
                                             {"kl/chosen", (k(-0.5) + k(1) + k(-0.75)) / 3},
                                             {"kl/rejected", (k(0.5) + k(0) + k(-0.5)) / 3},
                                             {"chosen_drop", (0.5 - 0.75) / 3},
                                             {"chosen_fell", 0.5}};
  for (const auto& [name, value] : wanted) {
    ASSERT_TRUE(metrics.count(name)) << name;
    EXPECT_NEAR(metrics.at(name), value, 1e-12) << name;
  }
}

// Vectorised functions round their last, partial vector otherwise: about one sigmoid of forty would have other bits beside other pairs.
TEST(Dpo, APairsLossAndGradientHaveTheSameBitsBesideAnyOthers) {
  test::TokenRows tokens;
  config::PreferenceOptions o;
  o.loss_type = {"apo_zero"};
  Dpo dpo(test::some_pairs(tokens, 150, 50), o, 100);
  const std::vector<int64_t> rows = test::all_rows(dpo);
  const auto logprobs_of = [&](int64_t row, double phase) {
    std::vector<float> values(trained_tokens(dpo.row(row).chosen) + trained_tokens(dpo.row(row).rejected));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(-2 - 1.9 * std::sin(phase + 37.0 * static_cast<double>(row) + 1.3 * static_cast<double>(i)));
    return values;
  };
  std::vector<float> everything;
  for (int64_t row : rows) {
    dpo.reference()->set(row, logprobs_of(row, 2));
    const std::vector<float> values = logprobs_of(row, 0);
    everything.insert(everything.end(), values.begin(), values.end());
  }
  const StepInputs step{dpo.counts(rows), {}};
  const at::Tensor all = at::tensor(everything).requires_grad_(true);
  const at::Tensor together = dpo.evaluate(forward_of(dpo, rows, all), step).losses.at(0).values;
  together.sum().backward();
  int64_t at = 0;
  for (int64_t row : rows) {
    const at::Tensor own = at::tensor(logprobs_of(row, 0)).requires_grad_(true);
    const at::Tensor alone = dpo.evaluate(forward_of(dpo, std::span(&row, 1), own), step).losses.at(0).values;
    alone.sum().backward();
    EXPECT_EQ(alone.item<double>(), together[row].item<double>()) << row;
    EXPECT_TRUE(at::equal(own.grad(), all.grad().slice(0, at, at + own.numel()))) << row;
    at += own.numel();
  }
  EXPECT_EQ(at, all.numel());
}

TEST(Pairs, ALossOfTheChosenTokensAloneIsDividedByThemAndNeedsNoReference) {
  test::TokenRows tokens;
  config::PreferenceOptions o;
  o.loss_type = {"sft"};
  Dpo sft(test::some_pairs(tokens, 3, 20), o, 100);
  EXPECT_EQ(sft.reference(), nullptr);
  EXPECT_EQ(sft.counts(std::vector<int64_t>{0, 1, 2})[0], sft.counts(std::vector<int64_t>{0, 1, 2})[2]);
  o.loss_type = {"sft", "aot"};
  Dpo both(test::some_pairs(tokens, 3, 20), o, 100);
  EXPECT_NE(both.reference(), nullptr);
  EXPECT_EQ(both.counts(std::vector<int64_t>{0, 1, 2})[0], 3);
  EXPECT_EQ(both.scope(), Scope::step);
  EXPECT_EQ(sft.scope(), Scope::sequence);
}

TEST(Pairs, WhatNoLossIsDefinedForIsADefect) {
  config::PreferenceOptions o;
  const auto make = [&](std::vector<std::string> losses) {
    o.loss_type = std::move(losses);
    Dpo({}, o, 100);
  };
  EXPECT_NO_THROW(make({"sigmoid"}));
  EXPECT_THROW(make({"kto"}), ProgrammerError);
  EXPECT_THROW(make({"exo_pair"}), ProgrammerError);
  o.label_smoothing = 0.5;
  EXPECT_NO_THROW(make({"exo_pair"}));
  EXPECT_THROW(make({"robust"}), ProgrammerError);
  o.loss_weights = {1.0};
  EXPECT_THROW(make({"sigmoid", "sft"}), ProgrammerError);
  o.loss_weights.clear();
  o.use_weighting = true;
  EXPECT_THROW(make({"aot"}), ProgrammerError);
}

TEST(Orpo, TheChosenSequenceIsPredictedFromItsPromptOn) {
  test::TokenRows tokens;
  const std::vector<data::PairRow> rows{{tokens.add({1, 2, 3}, {7, 8}), tokens.add({1, 2, 3}, {5}), 0.0}};
  const Orpo orpo(rows, {}, 100);
  batch::PackedBatch packed;
  orpo.append(packed, 0);
  batch::validate(packed);
  EXPECT_EQ(packed.targets, (std::vector<int64_t>{2, 3, 7, 8, 5}));
  EXPECT_EQ(orpo.row_tokens(0), packed.num_tokens());
  EXPECT_EQ(orpo.counts(std::vector<int64_t>{0}), (std::vector<double>{1, 1, 2, 1, 4}));
}

TEST(Kto, PromptsMeetCompletionsOfTheRowBeforeOfAnotherPrompt) {
  test::TokenRows tokens;
  std::vector<data::UnpairedRow> rows;
  const auto add = [&](Ids prompt, Ids completion, bool label) { rows.push_back({tokens.add(prompt, completion), label}); };
  add({1, 2}, {10}, true);
  add({1, 2}, {11, 12, 13}, false);
  add({3}, {14}, true);
  add({3}, {15, 16}, false);
  add({3}, {17}, false);
  add({4, 5, 6, 7}, {18, 19}, true);
  const Kto kto(rows, {});
  Ids partners;
  for (int64_t i = 0; i < kto.num_rows(); ++i) partners.push_back(static_cast<int32_t>(kto.partner(i)));
  EXPECT_EQ(partners, (Ids{5, 5, 0, 1, 0, 2}));
  batch::PackedBatch packed;
  kto.append_first(packed, 3);
  EXPECT_EQ(packed.token_ids, (std::vector<int64_t>{3, 11, 12, 13}));
  EXPECT_EQ(packed.targets, (std::vector<int64_t>{11, 12, 13}));
  EXPECT_EQ(kto.first_tokens(3), 4);
  EXPECT_EQ(kto.reference_tokens(3), 3 + 4);
  batch::PackedBatch both;
  kto.append_reference(both, 3);
  EXPECT_EQ(both.targets, (std::vector<int64_t>{15, 16, 11, 12, 13}));
  EXPECT_EQ(kto.counts(std::vector<int64_t>{0, 1, 5}), (std::vector<double>{3, 2, 1, 3, 3}));
}

TEST(Kto, MismatchedSequencesAreCutToTheLongestRowAndOnePromptIsNoObstacle) {
  test::TokenRows tokens;
  const std::vector<data::UnpairedRow> rows{{tokens.add({1, 2, 3, 4, 5}, {6}), true}, {tokens.add({1}, {7, 8, 9}), false}};
  const Kto kto(rows, {});
  batch::PackedBatch packed;
  kto.append_first(packed, 0);
  EXPECT_EQ(packed.token_ids, (std::vector<int64_t>{1, 2, 3, 4, 5, 7}));
  const Kto same({{tokens.add({1}, {2}), true}, {tokens.add({1}, {3}), true}, {tokens.add({1}, {4}), false}}, {});
  EXPECT_EQ(same.partner(0), 2);
  EXPECT_EQ(same.partner(1), 0);
  config::PreferenceOptions apo;
  apo.loss_type = {"apo_zero_unpaired"};
  const Kto without({{tokens.add({1}, {2}), true}}, apo);
  EXPECT_EQ(without.scope(), Scope::sequence);
  EXPECT_EQ(without.reference_tokens(0), 2);
}

}  // namespace
}  // namespace hone::methods
