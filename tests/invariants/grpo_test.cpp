// What must hold of the methods over groups: the split into micro-batches changes no bit, nor does leaving out groups that teach nothing; a tree
// is its flattened sequences wherever it is cut; the order of the groups does not matter; at the first update the ratio is 1.
#include <ATen/core/grad_mode.h>

#include <gtest/gtest.h>

#include <cstring>

#include "hone/base/rng.h"
#include "hone/methods/grpo.h"
#include "hone/methods/rloo.h"
#include "hone/train/micro_batch.h"
#include "hone/train/reference_logprobs.h"
#include "support/golden_model.h"

namespace hone {
namespace grpo_test {

constexpr const char* kModel = "models/tied_gqa2";
constexpr int kGroups = 7;
using Change = std::function<void(config::RunConfig&)>;

// Groups of 4 whose rewards differ, but for the third's; the log-probabilities are those of `policy`, moved by up to `shift`.
std::vector<methods::Group> some_groups(model::Model& policy, double temperature, float shift) {
  std::vector<methods::Group> groups;
  uint32_t draws = 0;
  const auto below = [&](uint64_t n) { return static_cast<int32_t>(random_bits(11, Purpose::test, draws++, 0, 0) % n); };
  const auto tokens = [&](int n) {
    std::vector<int32_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(3 + below(74));
    return ids;
  };
  for (int g = 0; g < kGroups; ++g) {
    methods::Group& group = groups.emplace_back();
    group.prompt = tokens(2 + below(20));
    for (int i = 0; i < 4; ++i) {
      methods::SampledCompletion& c = group.completions.emplace_back();
      c.ids = tokens(g == 4 ? 16 : 1 + below(16));  // of the fifth group, all are cut
      c.truncated = c.ids.size() == 16;
      c.rewards = {g == 2 ? 1.0 : 0.25 * below(4) + 0.01 * i};
      batch::PackedBatch packed;
      std::vector<int32_t> all = group.prompt;
      all.insert(all.end(), c.ids.begin(), c.ids.end());
      std::vector<float> weights(all.size(), 0.0f);
      std::fill(weights.begin() + static_cast<int64_t>(group.prompt.size()), weights.end(), 1.0f);
      batch::append_document(packed, all.data(), weights.data(), std::ssize(all));
      at::NoGradGuard no_grad;
      model::ensure_positions(policy, std::ssize(all));
      const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
      const at::Tensor p =
          ops::token_logprobs(model::decoder(policy, nullptr, tensors, {}), policy.head(nullptr), tensors, {temperature, false, std::nullopt})
              .logprobs;
      for (int64_t t = 0; t < p.numel(); ++t)
        c.logprobs.push_back(p.const_data_ptr<float>()[t] + shift * (0.1f * static_cast<float>(below(11)) - 0.5f));
      c.sampler_logprobs = c.logprobs;
      for (float& q : c.sampler_logprobs) q += 0.1f;
    }
  }
  return groups;
}

struct Outcome {
  train::StepSums sums;
  std::vector<float> gradients;
};

std::unique_ptr<methods::GroupMethod> make(const std::string& kind, const config::RunConfig& o) {
  if (kind == "rloo") return std::make_unique<methods::Rloo>(o, std::vector<std::string>{"x"});
  return std::make_unique<methods::Grpo>(o, std::vector<std::string>{"x"});
}

struct Setting {
  std::string kind;
  Change change = [](config::RunConfig&) {};
  int64_t budget = 4096, tree = 4096;
  bool skip = false, reversed = false;
  ops::Backend backend = ops::Backend::kernels;
  float shift = 0.5f;
};

Outcome run(const Setting& s) {
  config::RunConfig o;
  o.temperature = 0.7;
  o.beta = 0;
  o.num_iterations = 2;
  o.max_tree_tokens = s.tree;
  s.change(o);
  const auto model = test::load_golden(kModel, s.backend);
  const auto method = make(s.kind, o);
  std::vector<methods::Group> groups = some_groups(*model, o.temperature, s.shift);
  if (s.reversed) std::reverse(groups.begin(), groups.end());
  method->begin(groups);
  std::vector<int64_t> all(kGroups), rows;
  for (int64_t i = 0; i < kGroups; ++i) all[i] = i;
  if (method->reference())
    train::score_reference_rows(
        *model, nullptr, *method, all, 64,
        [&](int64_t row, std::vector<float> p) {
          for (float& x : p) x -= 0.05f;
          method->reference()->set(row, std::move(p));
        },
        [] { return true; });
  method->referenced();
  for (int64_t i : all)
    if (!s.skip || method->has_gradient(i)) rows.push_back(i);
  for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
  train::PassOptions pass{s.budget, true, false};
  if (s.skip) pass.step_rows = all;
  return {train::run_rows(*model, *method, rows, pass), test::all_gradients(*model)};
}

std::map<std::string, Setting> settings() {
  const auto grpo = [](Change change) { return Setting{"grpo", std::move(change)}; };
  return {{"dapo", grpo([](auto&) {})},
          {"on_policy", grpo([](auto& o) { o.num_iterations = 1; })},
          {"sequence", grpo([](auto& o) { o.loss_type = {"grpo"}, o.importance_sampling_level = config::ImportanceLevel::sequence; })},
          {"everything", grpo([](auto& o) {
             o.loss_type = {"sapo"}, o.beta = 0.1, o.entropy_coef = 0.1, o.top_entropy_quantile = 0.5, o.mask_truncated_completions = true;
             o.importance_sampling_clip_max = 0.95;
           })},
          {"rloo", Setting{"rloo", [](auto& o) { o.beta = 0.05; }}},
          {"rloo_on_policy", Setting{"rloo", [](auto& o) { o.num_iterations = 1; }}}};
}

double metric(const Outcome& o, const std::string& name) {
  for (const auto& [key, value] : o.sums.metrics)
    if (key == name) return value;
  ADD_FAILURE() << "no metric " << name;
  return NAN;
}

void expect_same_bits(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.sums.loss, b.sums.loss);
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  EXPECT_EQ(std::memcmp(a.gradients.data(), b.gradients.data(), a.gradients.size() * sizeof(float)), 0);
}

TEST(Grpo, TheMicroBatchBudgetChangesNoBit) {
  for (const auto& [name, setting] : settings()) {
    const Outcome base = run(setting);
    for (const int64_t budget : {150, 1}) {
      SCOPED_TRACE(name + " " + std::to_string(budget));
      Setting split = setting;
      split.budget = budget;
      const Outcome other = run(split);
      ASSERT_LT(other.sums.largest_micro_batch, base.sums.largest_micro_batch) << "the budget splits nothing";
      expect_same_bits(other, base);
      EXPECT_EQ(other.sums.metrics, base.sums.metrics);
      EXPECT_EQ(other.sums.row_loss, base.sums.row_loss);
    }
  }
}

TEST(Grpo, LeavingOutGroupsWithoutSpreadChangesNoBit) {
  for (const auto& [name, setting] : settings()) {
    SCOPED_TRACE(name);
    if (name == "everything" || name == "rloo") continue;  // they always have a gradient: a KL term, an entropy bonus
    Setting skipping = setting;
    skipping.skip = true;
    const Outcome base = run(setting), other = run(skipping);
    ASSERT_LT(other.sums.row_loss.size(), base.sums.row_loss.size()) << "nothing was left out";
    expect_same_bits(other, base);
  }
}

TEST(Grpo, ATreeIsItsSequencesWhereverItIsCut) {
  for (const auto backend : {ops::Backend::kernels, ops::Backend::reference})
    for (const auto& [name, setting] : settings()) {
      SCOPED_TRACE(name);
      Setting s = setting;
      s.backend = backend;
      const Outcome whole = run(s);
      int64_t packed = 0;
      for (const int64_t tree : {55, 1}) {
        s.tree = tree;
        const Outcome cut = run(s);
        EXPECT_GT(cut.sums.largest_micro_batch, whole.sums.largest_micro_batch) << "nothing was cut";
        EXPECT_GT(cut.sums.largest_micro_batch, packed);
        packed = cut.sums.largest_micro_batch;
        EXPECT_NEAR(cut.sums.loss, whole.sums.loss, backend == ops::Backend::kernels ? 0 : 1e-6);  // the kernels' forward has the same bits
        EXPECT_LE(test::relative_error(cut.gradients, whole.gradients), 1e-5);  // a prompt's gradients are added up in another order
      }
    }
}

TEST(Grpo, TheOrderOfTheGroupsDoesNotMatter) {
  for (const auto& [name, setting] : settings()) {
    SCOPED_TRACE(name);
    Setting reversed = setting;
    reversed.reversed = true;
    const Outcome base = run(setting), other = run(reversed);
    EXPECT_NEAR(other.sums.loss, base.sums.loss, 1e-12);  // float64 sums in another order
    EXPECT_LE(test::relative_error(other.gradients, base.gradients), 1e-5);
  }
}

TEST(Grpo, AtTheFirstUpdateTheRatioIsOneWithAndWithoutTheSampledLogprobs) {
  for (const std::string kind : {"grpo", "rloo"}) {
    Setting given{kind}, assumed{kind, [](auto&o) { o.num_iterations = 1; }};
    given.shift = assumed.shift = 0;
    const Outcome a = run(given), b = run(assumed);
    expect_same_bits(a, b);
    EXPECT_EQ(metric(a, "sampling/sampling_logp_difference/max"), 0);
    EXPECT_EQ(metric(b, "sampling/sampling_logp_difference/mean"), 0);
    given.shift = 0.5f;
    EXPECT_NEAR(metric(run(given), "sampling/sampling_logp_difference/max"), 0.25, 1e-6);  // what it was moved by, rounded to float32
  }
}

}  // namespace grpo_test
}  // namespace hone
