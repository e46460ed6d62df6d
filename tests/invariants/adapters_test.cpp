// Exactness with adapters, by bits: the same promises as without, for every kind of adapter, dropout and 4-bit bases included.
#include <gtest/gtest.h>

#include <cstring>

#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"
#include "hone/rollout/sampler.h"
#include "hone/train/scoring.h"
#include "support/run_job.h"

namespace hone {
namespace adapters_test {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct Kind {
  const char* name;
  adapters::LoraConfig lora;
  std::optional<model::Quantisation> quantisation;
};

std::vector<Kind> kinds() {
  adapters::LoraConfig small;
  small.r = 4;
  small.lora_alpha = 8;
  std::vector<Kind> all{{"lora", small, std::nullopt}, {"nf4", small, model::Quantisation{}}};
  Kind dropout{"dropout", small, std::nullopt};
  dropout.lora.lora_dropout = 0.2;
  all.push_back(dropout);
  Kind dora{"dora", small, std::nullopt};
  dora.lora.use_dora = true;
  all.push_back(dora);
  Kind some{"some", small, model::Quantisation{kernels::QuantType::fp4, false}};
  some.lora.target_modules = {"q_proj", "v_proj", ".*layers\\.1\\.mlp\\.down_proj"};
  some.lora.modules_to_save = {"lm_head", "embed_tokens", "norm"};
  some.lora.use_rslora = true;
  some.lora.init_lora_weights = adapters::InitLora::gaussian;
  all.push_back(some);
  Kind pissa{"pissa", small, std::nullopt};
  pissa.lora.init_lora_weights = adapters::InitLora::pissa;
  all.push_back(pissa);
  return all;
}

class ExactAdapters : public testing::TestWithParam<Kind> {
 protected:
  test::JobOutcome run(test::JobOptions options, int thread_count, kernels::Isa isa) {
    const int threads_before = threads();
    const kernels::Isa isa_before = kernels::active_isa();
    set_threads(thread_count);
    kernels::force_isa(isa);
    const test::RowSet rows = test::documents_of(golden::read_oracle(golden::golden_path("models/tied_gqa2") / "oracle.safetensors"));
    test::RowSet more;
    for (int copy = 0; copy < 4; ++copy)
      for (size_t i = 0; i < rows.ids.size(); ++i)
        more.add({rows.ids[i].begin(), rows.ids[i].end() - copy}, {rows.weights[i].begin(), rows.weights[i].end() - copy});
    const methods::Sft method = more.method();
    options.eval = &method;
    options.lora = GetParam().lora;
    options.quantisation = GetParam().quantisation;
    test::TemporaryRun folder;
    config::RunConfig c = test::small_config(5);
    c.eval_steps = 2;
    const test::JobOutcome outcome = test::run_job("models/tied_gqa2", method, c, folder.path, options);
    set_threads(threads_before);
    kernels::force_isa(isa_before);
    return outcome;
  }
  static void expect_same(const test::JobOutcome& a, const test::JobOutcome& b, const char* what) {
    EXPECT_TRUE(same_bits(a.weights, b.weights)) << what;
    ASSERT_EQ(a.metrics.size(), b.metrics.size()) << what;
    for (size_t i = 0; i < a.metrics.size(); ++i) EXPECT_EQ(test::exact_part(a.metrics[i]).dump(), test::exact_part(b.metrics[i]).dump()) << what;
  }
};

TEST_P(ExactAdapters, WeightsAndMetricsAfterFiveSteps) {
  const kernels::Isa isa = kernels::active_isa();
  const test::JobOutcome base = run({.micro_batch_tokens = 4096}, 2, isa);
  ASSERT_EQ(base.result.exit, Exit::ok) << base.result.message;
  EXPECT_TRUE(base.base_unchanged || GetParam().lora.init_lora_weights == adapters::InitLora::pissa);  // PiSSA takes its part out at the start
  EXPECT_LT(base.metrics.back().at("eval_loss"), base.metrics[1].at("eval_loss"));                     // it learns
  for (const int64_t budget : {1, 30}) expect_same(base, run({.micro_batch_tokens = budget}, 2, isa), "micro-batch budget");
  expect_same(base, run({.micro_batch_tokens = 4096}, 1, isa), "one thread");
  expect_same(base, run({.micro_batch_tokens = 40, .checkpointing = true}, 1, isa), "gradient checkpointing");
  expect_same(base, run({.micro_batch_tokens = 20, .checkpoint_above = 20}, 1, isa), "gradient checkpointing of the rows above the budget");
  if (!kernels::isa_available(kernels::Isa::avx512)) GTEST_SKIP() << "this CPU has no AVX-512: the comparison across instruction sets did not run";
  // The singular value decomposition of PiSSA is LAPACK's (docs/numerics.md): its bits may differ between instruction sets of the library, but
  // hone's forced instruction set does not reach it, so the comparison holds here too.
  expect_same(base, run({.micro_batch_tokens = 4096}, 2, kernels::Isa::avx2), "AVX2");
}

INSTANTIATE_TEST_SUITE_P(Kinds, ExactAdapters, testing::ValuesIn(kinds()), [](const auto& info) { return std::string(info.param.name); });

// One base, two policies: switching between them, or off, leaves no trace.
// A GGUF file's own 4-bit blocks have exactly the values of its float32 form: adapters trained on either are the same bits.
TEST(GgufBlocks, TrainAsTheirFloat32Form) {
  const test::RowSet rows = test::documents_of(golden::read_oracle(golden::golden_path("gguf/hf/oracle.safetensors")));
  const methods::Sft method = rows.method();
  adapters::LoraConfig lora;
  lora.r = 4;
  const auto outcome = [&](const std::optional<model::Quantisation>& quantisation, ops::Backend backend) {
    const test::TemporaryRun run;
    return test::run_job("gguf/q4.gguf", method, test::small_config(5), run.path, {.backend = backend, .lora = lora, .quantisation = quantisation});
  };
  const test::JobOutcome dense = outcome(std::nullopt, ops::Backend::kernels);
  const test::JobOutcome blocks = outcome(model::Quantisation{.stored = true}, ops::Backend::kernels);
  EXPECT_TRUE(same_bits(dense.weights, blocks.weights));
  EXPECT_TRUE(blocks.base_unchanged);
  ASSERT_EQ(dense.metrics.size(), 5u);
  for (size_t i = 0; i < dense.metrics.size(); ++i) EXPECT_EQ(test::exact_part(dense.metrics[i]), test::exact_part(blocks.metrics[i]));
  EXPECT_TRUE(outcome(model::Quantisation{.stored = true}, ops::Backend::reference).base_unchanged);
}

// Every linear, as tensors: the same bits on both backends, in less memory.
TEST(GgufBlocks, HoldTheValuesOfTheFile) {
  const auto source = model::open_model(golden::golden_path("gguf/q4.gguf").string());
  const auto dense = model::load_model(*source, ops::Backend::kernels, at::kCPU, 64);
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    const auto blocks = model::load_model(*source, backend, at::kCPU, 64, model::Quantisation{.stored = true});
    EXPECT_TRUE(same_bits(test::all_values(*dense), test::all_values(*blocks)));
    for (const model::Block& block : blocks->blocks)
      for (const ops::Parameter* linear : {&block.qkv, &block.o, &block.gate_up, &block.down}) {
        ASSERT_TRUE(linear->is_quantised()) << linear->name();
        // 4 bits and two float32 for 32 weights; the reference keeps a code in a byte.
        EXPECT_LE(ops::value_bytes(*linear), (backend == ops::Backend::kernels ? 1 : 2) * linear->numel()) << linear->name();
      }
  }
}

TEST(GgufBlocks, AreRefusedWhereALinearIsNotInFourBits) {
  for (const char* path : {"gguf/mixed.gguf", "models/chat"}) {
    const auto source = model::open_model(golden::golden_path(path).string());
    try {
      model::load_model(*source, ops::Backend::kernels, at::kCPU, 64, model::Quantisation{.stored = true});
      FAIL() << path;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find("--bnb_4bit_quant_type gguf"), std::string::npos) << error.what();
    }
  }
}

TEST(AdaptersOnOneBase, AreSwitchedForEachForward) {
  const auto source = model::open_model(golden::golden_path("models/tied_gqa2").string());
  const auto model = model::load_model(*source, ops::Backend::kernels, at::kCPU, 64);
  const std::vector<std::vector<int32_t>> rows{{1, 5, 9, 2, 7, 11, 3}};
  const auto off = train::score_rows(*model, rows, 64);
  adapters::LoraConfig config;
  config.r = 4;
  const auto policy = adapters::create_adapter(*model, *source, config, 1);
  EXPECT_TRUE(adapters::is_identity(*policy));
  EXPECT_TRUE(same_bits(train::score_rows(*model, rows, 64, &policy->set)[0], off[0]));  // B = 0: a delta of exactly 0
  const auto perturb = [](adapters::Adapter& adapter, float by) {
    for (ops::Parameter* p : adapter.parameters) p->value.detach().add_(by);
    adapters::updated(adapter);
  };
  perturb(*policy, 0.01f);
  EXPECT_FALSE(adapters::is_identity(*policy));
  const auto reference = adapters::frozen_copy(*policy);  // the policy at step 0
  const auto at_start = train::score_rows(*model, rows, 64, &policy->set);
  EXPECT_FALSE(same_bits(at_start[0], off[0]));
  perturb(*policy, 0.02f);
  const auto moved = train::score_rows(*model, rows, 64, &policy->set);
  EXPECT_FALSE(same_bits(moved[0], at_start[0]));
  EXPECT_TRUE(same_bits(train::score_rows(*model, rows, 64, &reference->set)[0], at_start[0]));
  EXPECT_TRUE(same_bits(train::score_rows(*model, rows, 64)[0], off[0]));
}

// A reward model's scores do not depend on how rows are packed: samples of one prompt as a tree, cut by the budget, or each by itself.
TEST(AdaptersOnOneBase, ScoresOfAPromptsSamplesAreThoseOfEachAlone) {
  const auto source = model::open_model(golden::golden_path("models/tied_gqa2").string());
  const auto model = model::load_model(*source, ops::Backend::kernels, at::kCPU, 64);
  model::add_score_head(*model, 3);
  adapters::LoraConfig config;
  config.r = 4;
  const auto adapter = adapters::create_adapter(*model, *source, config, 1);
  for (ops::Parameter* p : adapter->parameters) p->value.detach().add_(0.01f);
  adapters::updated(*adapter);
  // Two prompts with samples of different lengths, one of them twice, then rows with nothing in common.
  const std::vector<std::vector<int32_t>> rows{
      {1, 5, 9, 2, 7, 3}, {1, 5, 9, 2, 7, 11, 4, 3}, {1, 5, 9, 2, 7, 3}, {1, 5, 9, 2}, {1, 8, 8, 6, 2, 3}, {1, 8, 8, 6, 5, 3}, {4}, {9, 9, 9}, {9}};
  std::vector<float> alone;
  for (const auto& row : rows) alone.push_back(train::reward_scores(*model, std::vector<std::vector<int32_t>>{row}, 64, &adapter->set).at(0));
  EXPECT_NE(alone[0], alone[1]);
  for (const int64_t budget : {1, 7, 14, 20, 1000})
    EXPECT_TRUE(same_bits(train::reward_scores(*model, rows, budget, &adapter->set), alone)) << "micro-batches of " << budget << " tokens";
}

// Decoding with an adapter on a 4-bit base has the bits of the forward over the whole text.
TEST(AdaptersOnOneBase, SampledLogprobsAreTheForwards) {
  const auto source = model::open_model(golden::golden_path("models/tied_gqa2").string());
  const auto model = model::load_model(*source, ops::Backend::kernels, at::kCPU, 64, model::Quantisation{});
  adapters::LoraConfig config;
  config.r = 4;
  const auto adapter = adapters::create_adapter(*model, *source, config, 1);
  for (ops::Parameter* p : adapter->parameters) p->value.detach().add_(0.01f);
  rollout::SampleOptions options;
  options.max_new_tokens = 12;
  options.num_generations = 3;
  options.adapters = &adapter->set;
  const std::vector<rollout::SampleRequest> requests{{{1, 5, 9, 2}, 0}};
  const auto sampled = rollout::sample(*model, requests, options);
  for (const rollout::Completion& c : sampled[0]) {
    std::vector<int32_t> whole = requests[0].prompt;
    whole.insert(whole.end(), c.ids.begin(), c.ids.end());
    const std::vector<float> forward = train::score_rows(*model, std::vector<std::vector<int32_t>>{whole}, 64, &adapter->set)[0];
    EXPECT_TRUE(same_bits(c.logprobs, {forward.end() - static_cast<int64_t>(c.ids.size()), forward.end()}));
  }
}

}  // namespace adapters_test
}  // namespace hone
