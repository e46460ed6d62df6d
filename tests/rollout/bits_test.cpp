// What is sampled is what is trained on: log-probabilities of every sampler batch have the bits of the training forward, full, LoRA, DoRA and QLoRA,
// whatever is decoded together, on any number of threads and instruction set; and nothing that is kept outlives the weights it was made with.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cstring>
#include <optional>

#include "hone/adapters/lora.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"
#include "hone/rollout/sampler.h"
#include "support/golden_model.h"

namespace hone {
namespace {

std::vector<int32_t> tokens(int64_t count, int seed, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + seed * 104729 + i * i * 31 + 1) % vocab));
  return ids;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool same(const rollout::Completion& a, const rollout::Completion& b) {
  return a.ids == b.ids && a.finish == b.finish && same_bits(a.logprobs, b.logprobs) && same_bits(a.tempered_logprobs, b.tempered_logprobs) &&
         same_bits(a.sampler_logprobs, b.sampler_logprobs);
}

struct Kind {
  std::string name, model;
  bool adapted = false, dora = false;
  std::optional<model::Quantisation> quantisation = std::nullopt;
};

struct Policy {
  std::unique_ptr<model::Model> model;
  std::unique_ptr<adapters::Adapter> adapter;
  const ops::AdapterSet* set() const { return adapter ? &adapter->set : nullptr; }
};

Policy load(const Kind& kind) {
  const auto source = model::open_model(golden::golden_path(kind.model.ends_with(".gguf") ? "gguf/" + kind.model : "models/" + kind.model).string());
  Policy policy{model::load_model(*source, ops::Backend::kernels, at::kCPU, 16, kind.quantisation), nullptr};
  if (!kind.adapted) return policy;
  adapters::LoraConfig config;
  config.r = 4;
  config.use_dora = kind.dora;
  policy.adapter = adapters::create_adapter(*policy.model, *source, config, 1);
  for (ops::Parameter* p : policy.adapter->parameters) p->value.detach().add_(0.013f);
  adapters::updated(*policy.adapter);
  return policy;
}

/// The training forward over prompt and completions as one tree, at a temperature.
std::vector<std::vector<float>> trained(Policy& policy, const std::vector<int32_t>& prompt, const std::vector<rollout::Completion>& completions,
                                        double temperature) {
  std::vector<std::vector<int32_t>> whole;
  std::vector<std::vector<float>> weights;
  for (const auto& c : completions) {
    whole.push_back(prompt);
    whole.back().insert(whole.back().end(), c.ids.begin(), c.ids.end());
    weights.emplace_back(prompt.size(), 0.0f);
    weights.back().resize(whole.back().size(), 1.0f);
  }
  std::vector<batch::Branch> branches;
  for (size_t i = 0; i < whole.size(); ++i) branches.push_back({whole[i].data(), weights[i].data(), static_cast<int64_t>(whole[i].size())});
  batch::PackedBatch packed;
  batch::append_tree(packed, branches, 4096);
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  model::ensure_positions(*policy.model, 256);
  const at::Tensor hidden = model::decoder(*policy.model, policy.set(), tensors, {.training = true});
  ops::LogprobOptions options;
  options.temperature = temperature;
  const at::Tensor logprobs = ops::token_logprobs(hidden, policy.model->head(policy.set()), tensors, options).logprobs;
  std::vector<std::vector<float>> out;
  int64_t at = 0;
  for (const auto& c : completions) {
    const float* p = logprobs.const_data_ptr<float>() + at;
    out.emplace_back(p, p + c.ids.size());
    at += static_cast<int64_t>(c.ids.size());
  }
  EXPECT_EQ(at, logprobs.numel());
  return out;
}

struct Environment {
  int count = threads();
  kernels::Isa isa = kernels::active_isa();
  ~Environment() {
    set_threads(count);
    kernels::force_isa(isa);
  }
};

class SamplerBits : public testing::TestWithParam<Kind> {
 protected:
  Policy policy = load(GetParam());
  std::vector<rollout::SampleRequest> requests;
  rollout::SampleOptions options;

  void SetUp() override {
    // Lengths around the edges of lanes and of cache blocks; 16 prompts x 4 samples fill 64 slots.
    const std::vector<int64_t> lengths = {1, 2, 15, 16, 17, 31, 33, 47, 63, 64, 65, 66, 79, 100, 127, 130};
    for (size_t i = 0; i < lengths.size(); ++i)
      requests.push_back({tokens(lengths[i], static_cast<int>(i), policy.model->config.vocab_size), static_cast<uint32_t>(i)});
    options.num_generations = 4;
    options.max_new_tokens = 7;
    options.law = {.temperature = 0.8, .top_k = 30};
    options.stop_ids = {3, 7, 11, 20};
    options.adapters = policy.set();
  }
};

TEST_P(SamplerBits, AreTheTrainingForwardsForEveryBatchSize) {
  const Environment restore;
  const auto want = rollout::sample(*policy.model, requests, options);
  size_t stopped = 0;
  for (size_t r = 0; r < requests.size(); ++r) {
    const auto plain = trained(policy, requests[r].prompt, want[r], 1.0), tempered = trained(policy, requests[r].prompt, want[r], 0.8);
    for (size_t g = 0; g < want[r].size(); ++g) {
      EXPECT_TRUE(same_bits(want[r][g].logprobs, plain[g])) << "prompt of " << requests[r].prompt.size();
      EXPECT_TRUE(same_bits(want[r][g].tempered_logprobs, tempered[g])) << "prompt of " << requests[r].prompt.size();
      stopped += want[r][g].finish == rollout::Finish::stop;
    }
  }
  EXPECT_GT(stopped, 0u);
  for (int64_t slots = 1; slots <= 64; ++slots) {
    options.slots = slots;
    set_threads(slots % 2 == 0 ? 2 : 1);
    kernels::force_isa(slots % 3 == 0 ? kernels::Isa::avx2 : restore.isa);
    if (slots % 5 == 0) options.kv_bytes = 1;  // memory for one sample at a time, then again for all
    const auto got = rollout::sample(*policy.model, requests, options);
    options.kv_bytes = 0;
    for (size_t r = 0; r < requests.size(); ++r)
      for (size_t g = 0; g < want[r].size(); ++g) ASSERT_TRUE(same(want[r][g], got[r][g])) << slots << " slots, request " << r << " sample " << g;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SamplerBits,
                         testing::Values(Kind{"full", "tied_gqa2"}, Kind{"bias", "mqa_bias"}, Kind{"head_dim", "head_dim"},
                                         Kind{"lora", "mqa_bias", true}, Kind{"dora", "mqa_bias", true, true},
                                         Kind{"qlora", "tied_gqa2", true, false, model::Quantisation{}},
                                         Kind{"gguf_blocks", "q4.gguf", false, false, model::Quantisation{.stored = true}},
                                         Kind{"lora_on_gguf_blocks", "q4.gguf", true, false, model::Quantisation{.stored = true}},
                                         Kind{"int8", "tied_gqa2", false, false, model::Quantisation{kernels::QuantType::int8}}),
                         [](const auto& info) { return info.param.name; });

TEST(Sampler, SkippedSamplesCostNothingAndChangeNothing) {
  Policy policy = load({"full", "tied_gqa2"});
  std::vector<rollout::SampleRequest> requests{{tokens(9, 1, 50), 0}, {tokens(12, 2, 50), 1}, {tokens(4, 3, 50), 2}};
  rollout::SampleOptions options;
  options.num_generations = 3;
  options.max_new_tokens = 5;
  const auto all = rollout::sample(*policy.model, requests, options);
  options.skip = [](size_t request, uint32_t sample) { return request == 1 || sample == 2; };
  size_t told = 0;
  options.finished = [&](size_t request, uint32_t sample, const rollout::Completion& c) {
    ++told;
    EXPECT_TRUE(same(c, all[request][sample]));
  };
  const auto some = rollout::sample(*policy.model, requests, options);
  EXPECT_EQ(told, 4u);
  for (size_t r = 0; r < 3; ++r)
    for (uint32_t g = 0; g < 3; ++g) EXPECT_EQ(some[r][g].ids.empty(), options.skip(r, g));
}

TEST(Sampler, GoOnEndsIt) {
  Policy policy = load({"full", "tied_gqa2"});
  rollout::SampleOptions options;
  options.max_new_tokens = 50;
  int steps = 0;
  options.go_on = [&] { return ++steps < 4; };
  const rollout::SampleRequest request{tokens(9, 1, 50), 0};
  EXPECT_TRUE(rollout::sample(*policy.model, std::span(&request, 1), options)[0][0].ids.empty());
  EXPECT_EQ(steps, 4);
}

TEST(Session, TheNextTurnComputesOnlyWhatIsNewWithTheSameBits) {
  for (const Kind& kind : {Kind{"full", "tied_gqa2"}, Kind{"dora", "mqa_bias", true, true}}) {
    Policy policy = load(kind);
    const int64_t vocab = policy.model->config.vocab_size;
    rollout::SampleOptions options;
    options.max_new_tokens = 40;
    options.adapters = policy.set();
    rollout::Session session(*policy.model, policy.set(), 400);
    rollout::SampleRequest request{tokens(70, 5, vocab), 0};
    for (int turn = 0; turn < 3; ++turn) {
      const rollout::Completion got = session.reply(request, options);
      EXPECT_TRUE(same(got, rollout::sample(*policy.model, std::span(&request, 1), options)[0][0])) << "turn " << turn;
      EXPECT_GE(session.reused(), turn > 0 ? 70 : 0);
      request.prompt.insert(request.prompt.end(), got.ids.begin(), got.ids.end());
      const auto more = tokens(11, turn, vocab);
      request.prompt.insert(request.prompt.end(), more.begin(), more.end());
    }
    // another conversation that shares 20 tokens with the last
    request.prompt.resize(20);
    request.prompt.push_back((request.prompt.back() + 1) % vocab);
    EXPECT_TRUE(same(session.reply(request, options), rollout::sample(*policy.model, std::span(&request, 1), options)[0][0]));
    EXPECT_EQ(session.reused(), 20);
  }
}

TEST(Session, AChangedWeightMakesWhatIsKeptUnusable) {
  for (const bool adapted : {false, true}) {
    Policy policy = load({"", "mqa_bias", adapted, adapted});
    rollout::SampleOptions options;
    options.max_new_tokens = 30;
    options.adapters = policy.set();
    rollout::Session session(*policy.model, policy.set(), 200);
    const rollout::SampleRequest request{tokens(40, 5, policy.model->config.vocab_size), 0};
    const rollout::Completion before = session.reply(request, options);
    session.reply(request, options);
    EXPECT_EQ(session.reused(), 39);
    ops::Parameter& changed = adapted ? *policy.adapter->parameters.front() : policy.model->blocks.front().qkv;
    changed.value.detach().view({-1})[5].add_(0.25f);  // one weight
    if (adapted) adapters::updated(*policy.adapter);
    const rollout::Completion after = session.reply(request, options);
    EXPECT_EQ(session.reused(), 0);
    EXPECT_TRUE(same(after, rollout::sample(*policy.model, std::span(&request, 1), options)[0][0]));
    EXPECT_FALSE(same(after, before));
  }
}

}  // namespace
}  // namespace hone
