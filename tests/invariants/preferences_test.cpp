// What must hold of every preference method: the split into micro-batches changes no bit, a tree is its two sequences, and where the policy is
// its own reference nothing has moved.
#include <gtest/gtest.h>

#include <cstring>

#include "hone/methods/dpo.h"
#include "hone/methods/kto.h"
#include "hone/methods/orpo.h"
#include "hone/methods/simpo.h"
#include "hone/train/micro_batch.h"
#include "support/preferences.h"

namespace hone {
namespace preferences_test {

constexpr const char* kModel = "models/tied_gqa2";
constexpr int64_t kVocabulary = 77;
constexpr int kPairs = 21;  // more than 256 tokens, and more than one vector of the float64 functions of ATen

struct Outcome {
  train::StepSums sums;
  std::vector<float> gradients;
  std::map<std::string, std::vector<float>> by_parameter;
};

Outcome run(methods::Method& method, int64_t budget, ops::Backend backend = ops::Backend::kernels, float shift = 0.2f) {
  const auto model = test::load_golden(kModel, backend);
  test::score_reference(method, *model, shift);
  for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
  Outcome out{train::run_rows(*model, method, test::all_rows(method), {budget, true, false}), test::all_gradients(*model), {}};
  for (const ops::Parameter* p : model->parameters())
    for (const ops::Part& part : p->parts) out.by_parameter[part.name] = test::gradient_of(*p, part);
  return out;
}

using Maker = std::function<std::unique_ptr<methods::Method>(test::TokenRows&, int64_t max_tree_tokens)>;

Maker dpo(
    std::vector<std::string> losses, const std::function<void(config::PreferenceOptions&)>& change = [](auto&) {}) {
  return [=](test::TokenRows& tokens, int64_t tree) {
    config::PreferenceOptions o;
    o.loss_type = losses;
    change(o);
    return std::make_unique<methods::Dpo>(test::some_pairs(tokens, kPairs, kVocabulary), o, tree);
  };
}

const std::map<std::string, Maker>& methods_under_test() {
  static const std::map<std::string, Maker> all{
      {"sigmoid", dpo({"sigmoid"})},
      {"ipo", dpo({"ipo"})},
      {"sft", dpo({"sft"})},
      {"aot", dpo({"aot"})},
      {"list", dpo({"aot_unpaired", "sft", "discopop", "exo_pair"}, [](auto& o) { o.label_smoothing = 0.1; })},
      {"weighting", dpo({"sigmoid_norm", "nca_pair"}, [](auto& o) { o.use_weighting = true, o.ld_alpha = 0.3; })},
      {"js_divergence", dpo({"sigmoid"}, [](auto& o) { o.f_divergence_type = config::FDivergence::js_divergence; })},
      {"orpo",
       [](test::TokenRows& tokens, int64_t tree) {
         return std::make_unique<methods::Orpo>(test::some_pairs(tokens, kPairs, kVocabulary), config::PreferenceOptions{}, tree);
       }},
      {"alphapo",
       [](test::TokenRows& tokens, int64_t tree) {
         config::PreferenceOptions o;
         o.loss_type = {"alphapo"}, o.alphapo_alpha = 0.25, o.beta = 2, o.cpo_alpha = 0.5;
         return std::make_unique<methods::Simpo>(test::some_pairs(tokens, kPairs, kVocabulary), o, tree);
       }},
      {"kto", [](test::TokenRows& tokens, int64_t) {
         std::vector<data::UnpairedRow> rows;
         for (const data::PairRow& pair : test::some_pairs(tokens, kPairs, kVocabulary)) {
           rows.push_back({pair.chosen, true});
           rows.push_back({pair.rejected, false});
         }
         return std::make_unique<methods::Kto>(rows, config::PreferenceOptions{});
       }}};
  return all;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const auto& [name, maker] : methods_under_test()) all.push_back(name);
  return all;
}

class Preferences : public testing::TestWithParam<std::string> {
 protected:
  test::TokenRows tokens;
  std::unique_ptr<methods::Method> make(int64_t max_tree_tokens = 4096) { return methods_under_test().at(GetParam())(tokens, max_tree_tokens); }
};

TEST_P(Preferences, TheMicroBatchBudgetChangesNoBit) {
  const Outcome base = run(*make(), 4096);
  ASSERT_FALSE(base.sums.row_loss.empty());
  ASSERT_GT(base.sums.metrics.size(), 5u);
  for (const int64_t budget : {256, 40, 1}) {
    SCOPED_TRACE(budget);
    const Outcome other = run(*make(), budget);
    ASSERT_LT(other.sums.largest_micro_batch, base.sums.largest_micro_batch) << "the budget splits nothing";
    EXPECT_EQ(other.sums.loss, base.sums.loss);
    EXPECT_EQ(other.sums.row_loss, base.sums.row_loss);
    EXPECT_EQ(other.sums.metrics, base.sums.metrics);
    EXPECT_EQ(other.sums.row_metrics, base.sums.row_metrics);
    ASSERT_EQ(other.gradients.size(), base.gradients.size());
    EXPECT_EQ(std::memcmp(other.gradients.data(), base.gradients.data(), base.gradients.size() * sizeof(float)), 0);
  }
}

TEST_P(Preferences, ATreeIsItsTwoSequences) {
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    const Outcome tree = run(*make(4096), 4096, backend), flat = run(*make(1), 4096, backend);
    if (GetParam() != "kto") {
      ASSERT_LT(tree.sums.largest_micro_batch, flat.sums.largest_micro_batch) << "nothing is shared";
    }
    if (backend == ops::Backend::kernels) {  // the forward to the bit, and with it all that is made of it
      EXPECT_EQ(tree.sums.loss, flat.sums.loss);
      EXPECT_EQ(tree.sums.row_loss, flat.sums.row_loss);
      EXPECT_EQ(tree.sums.row_metrics, flat.sums.row_metrics);
    }
    EXPECT_LE(std::abs(tree.sums.loss - flat.sums.loss), 1e-5 * std::abs(flat.sums.loss));
    // a shared token's gradient is one chain over both branches instead of two: another order of the same float32 sums
    for (const auto& [name, gradient] : tree.by_parameter) EXPECT_LE(test::relative_error(gradient, flat.by_parameter.at(name)), 1e-5) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Preferences, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

TEST(PreferencesAtStepZero, WhereThePolicyIsItsReferenceNothingHasMoved) {
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    test::TokenRows tokens;
    const auto method = methods_under_test().at("sigmoid")(tokens, 4096);
    const Outcome out = run(*method, 64, backend, 0.0f);
    const std::map<std::string, double> metrics(out.sums.metrics.begin(), out.sums.metrics.end());
    EXPECT_NEAR(out.sums.loss, std::log(2.0), 1e-6);
    // The kernels give a row the same bits in every batch. Plain ATen does not: sums of up to 10 tokens may differ by a few 1e-6.
    const double bound = backend == ops::Backend::kernels ? 0.0 : 1e-5;
    for (const char* name : {"rewards/chosen", "rewards/rejected", "rewards/margins", "kl/chosen", "kl/rejected", "chosen_drop"})
      EXPECT_NEAR(metrics.at(name), 0.0, bound) << name;
    if (backend == ops::Backend::kernels) {
      EXPECT_EQ(metrics.at("chosen_fell"), 0.0);
    }
  }
  test::TokenRows tokens;
  const auto kto = methods_under_test().at("kto")(tokens, 4096);
  const Outcome out = run(*kto, 64, ops::Backend::kernels, 0.0f);
  const std::map<std::string, double> metrics(out.sums.metrics.begin(), out.sums.metrics.end());
  EXPECT_NEAR(out.sums.loss, 0.5, 1e-12);
  for (const char* name : {"kl", "rewards/margins", "kl/chosen", "kl/rejected"}) EXPECT_EQ(metrics.at(name), 0.0) << name;
}

}  // namespace preferences_test
}  // namespace hone
