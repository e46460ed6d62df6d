// Exactness, by bits: nothing here is ever compared with a tolerance unless the text says why.
#include <ATen/core/grad_mode.h>

#include <gtest/gtest.h>

#include <cstring>

#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"
#include "hone/train/micro_batch.h"
#include "support/run_job.h"

namespace hone {
namespace exactness_test {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.numel() > 0 && x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr<float>(), y.const_data_ptr<float>(), x.numel() * sizeof(float)) == 0;
}

// Restores threads and instruction set.
struct Environment {
  int count = threads();
  kernels::Isa isa = kernels::active_isa();
  ~Environment() {
    set_threads(count);
    kernels::force_isa(isa);
  }
};

class ExactRuns : public testing::TestWithParam<std::string> {
 protected:
  test::JobOutcome run(const test::JobOptions& options, int thread_count, kernels::Isa isa) {
    Environment restore;
    set_threads(thread_count);
    kernels::force_isa(isa);
    const test::RowSet rows = test::documents_of(golden::read_oracle(golden::golden_path("models/" + GetParam()) / "oracle.safetensors"));
    test::RowSet more;
    for (int copy = 0; copy < 4; ++copy)
      for (size_t i = 0; i < rows.ids.size(); ++i)
        more.add({rows.ids[i].begin(), rows.ids[i].end() - copy}, {rows.weights[i].begin(), rows.weights[i].end() - copy});
    const methods::Sft method = more.method();
    test::JobOptions with_eval = options;
    with_eval.eval = &method;
    test::TemporaryRun folder;
    config::RunConfig c = test::small_config(5);
    c.eval_steps = 2;
    return test::run_job("models/" + GetParam(), method, c, folder.path, with_eval);
  }
  static void expect_same(const test::JobOutcome& a, const test::JobOutcome& b, const char* what) {
    EXPECT_TRUE(same_bits(a.weights, b.weights)) << what;
    ASSERT_EQ(a.metrics.size(), b.metrics.size()) << what;
    for (size_t i = 0; i < a.metrics.size(); ++i) EXPECT_EQ(test::exact_part(a.metrics[i]).dump(), test::exact_part(b.metrics[i]).dump()) << what;
  }
};

TEST_P(ExactRuns, WeightsAndMetricsAfterFiveSteps) {
  const kernels::Isa isa = kernels::active_isa();
  const test::JobOutcome base = run({.micro_batch_tokens = 4096}, 2, isa);
  ASSERT_EQ(base.result.exit, Exit::ok) << base.result.message;
  ASSERT_EQ(base.metrics.size(), 5u);  // one line a step; those of steps 2, 4 and 5 carry an evaluation
  ASSERT_TRUE(base.metrics[1].contains("eval_loss") && base.metrics[4].contains("eval_loss_low") && !base.metrics[0].contains("eval_loss"));
  for (const int64_t budget : {1, 30, 256}) expect_same(base, run({.micro_batch_tokens = budget}, 2, isa), "micro-batch budget");
  expect_same(base, run({.micro_batch_tokens = 4096}, 1, isa), "one thread");
  expect_same(base, run({.micro_batch_tokens = 40, .checkpointing = true}, 1, isa), "gradient checkpointing");
  expect_same(base, run({.micro_batch_tokens = 20, .checkpoint_above = 20}, 1, isa), "gradient checkpointing of the rows above the budget");
  if (kernels::isa_available(kernels::Isa::avx512)) {
    expect_same(base, run({.micro_batch_tokens = 4096}, 2, kernels::Isa::avx2), "AVX2");
  } else {
    GTEST_SKIP() << "this CPU has no AVX-512: the comparison across instruction sets did not run";
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ExactRuns, testing::Values("tied_gqa2", "mqa_bias", "f16_v4", "bf16_aligned"));

std::vector<int32_t> tokens(int64_t count, int seed, int64_t vocab) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + seed * 104729 + i * i * 31) % vocab));
  return ids;
}

at::Tensor logits_of(model::Model& model, const batch::PackedBatch& packed) {
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  return ops::head_logits(model::decoder(model, nullptr, tensors, {}), model.head());
}

class ExactForward : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<model::Model> model = test::load_golden("models/" + GetParam(), ops::Backend::kernels);
  int64_t vocab = model->config.vocab_size;
};

TEST_P(ExactForward, PackedEqualsAloneAndOneDocumentCannotTouchAnother) {
  std::vector<std::vector<int32_t>> documents;
  for (int i = 0; i < 6; ++i) documents.push_back(tokens(3 + 9 * i, i, vocab));
  batch::PackedBatch packed;
  for (const auto& d : documents) batch::append_document(packed, d.data(), nullptr, static_cast<int64_t>(d.size()), true);
  const at::Tensor together = logits_of(*model, packed);
  int64_t begin = 0;
  for (const auto& d : documents) {
    batch::PackedBatch alone;
    const auto length = static_cast<int64_t>(d.size());
    batch::append_document(alone, d.data(), nullptr, length, true);
    EXPECT_TRUE(same_bits(logits_of(*model, alone), together.slice(0, begin, begin + length))) << length;
    begin += length;
  }
  // another second document: every other row keeps its bits
  batch::PackedBatch changed = packed;
  for (int64_t t = 3; t < 15; ++t) changed.token_ids[t] = (changed.token_ids[t] + 1) % vocab;
  const at::Tensor other = logits_of(*model, changed);
  EXPECT_TRUE(same_bits(other.slice(0, 0, 3), together.slice(0, 0, 3)));
  EXPECT_FALSE(same_bits(other.slice(0, 3, 15), together.slice(0, 3, 15)));
  EXPECT_TRUE(same_bits(other.slice(0, 15), together.slice(0, 15)));
}

TEST_P(ExactForward, TokensDecodedFromTheCacheHaveTheTrainingForwardsBits) {
  const std::vector<int32_t> ids = tokens(37, 3, vocab);
  batch::PackedBatch packed;
  batch::append_document(packed, ids.data(), nullptr, 37, true);
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  const at::Tensor hidden = model::decoder(*model, nullptr, tensors, {.training = true}).detach();
  // a prompt of 11 in one step, then two continuations side by side: ours, and another that must not disturb it
  model::KvCache prompt = model::make_kv_cache(*model, 11);
  const at::Tensor prefill = model::decoder_step(*model, nullptr, {ids.begin(), ids.begin() + 11}, std::vector<model::KvCache*>(11, &prompt));
  EXPECT_TRUE(same_bits(prefill, hidden.slice(0, 0, 11)));
  model::KvCache ours = model::copy_kv_cache(*model, prompt, 37), other = model::copy_kv_cache(*model, prompt, 37);
  for (int64_t t = 11; t < 37; ++t) {
    const at::Tensor step = model::decoder_step(*model, nullptr, {(ids[t] + 5) % vocab, ids[t]}, {&other, &ours});
    EXPECT_TRUE(same_bits(step.slice(0, 1, 2), hidden.slice(0, t, t + 1))) << "token " << t;
  }
}

// A prompt with three children, and a grandchild, against the same sequences written out.
TEST_P(ExactForward, TreeEqualsItsFlattenedSequences) {
  const auto prompt = tokens(13, 1, vocab);
  const std::vector<std::vector<int32_t>> children{tokens(9, 2, vocab), tokens(17, 3, vocab), tokens(4, 4, vocab)};
  const auto grandchild = tokens(6, 5, vocab);  // of the second child
  batch::PackedBatch tree, flat;
  const auto segment = [&](const std::vector<int32_t>& ids, int32_t parent) {
    const auto begin = static_cast<int32_t>(tree.token_ids.size());
    const int64_t base = parent < 0 ? 0 : tree.positions[tree.segments[parent].end - 1] + 1;
    for (size_t i = 0; i < ids.size(); ++i) {
      tree.token_ids.push_back(ids[i]);
      tree.positions.push_back(base + static_cast<int64_t>(i));
    }
    tree.segments.push_back({begin, static_cast<int32_t>(tree.token_ids.size()), parent});
    return static_cast<int32_t>(tree.segments.size() - 1);
  };
  const int32_t root = segment(prompt, -1);
  std::vector<std::vector<int64_t>> paths;  // tree rows of each flattened sequence, prompt first
  const auto rows_of = [&](std::vector<int32_t> path) {
    std::vector<int64_t> rows;
    for (int32_t s : path)
      for (int64_t t = tree.segments[s].begin; t < tree.segments[s].end; ++t) rows.push_back(t);
    return rows;
  };
  for (size_t i = 0; i < children.size(); ++i) {
    const int32_t child = segment(children[i], root);
    if (i == 1) {
      const int32_t leaf = segment(grandchild, child);
      paths.push_back(rows_of({root, child, leaf}));
    } else {
      paths.push_back(rows_of({root, child}));
    }
  }
  for (const auto& rows : paths) {
    std::vector<int32_t> ids;
    for (int64_t r : rows) ids.push_back(static_cast<int32_t>(tree.token_ids[r]));
    const int64_t begin = flat.num_tokens(), sequence = tree.num_sequences++;
    batch::append_document(flat, ids.data(), nullptr, static_cast<int64_t>(ids.size()), true);
    // every token behind the prompt is predicted, in both forms
    for (size_t i = prompt.size(); i < rows.size(); ++i) {
      tree.predict_from.push_back(rows[i - 1]);
      tree.targets.push_back(tree.token_ids[rows[i]]);
      tree.sequence_ids.push_back(sequence);
      tree.weights.push_back(1.0f + 0.25f * static_cast<float>(sequence));
    }
    tree.score_at.push_back(rows.back());
    (void)begin;
  }
  // forward: to the bit
  const at::Tensor tree_logits = logits_of(*model, tree), flat_logits = logits_of(*model, flat);
  int64_t begin = 0;
  for (const auto& rows : paths) {
    const auto length = static_cast<int64_t>(rows.size());
    EXPECT_TRUE(same_bits(tree_logits.index_select(0, at::tensor(rows, at::kLong)), flat_logits.slice(0, begin, begin + length)));
    begin += length;
  }
  // gradients: sums over the prompt's copies are in another order, so relative 1e-5 in the Euclidean norm
  batch::PackedBatch trained = flat;
  trained.predict_from.clear(), trained.targets.clear(), trained.sequence_ids.clear(), trained.weights.clear();
  begin = 0;
  for (size_t s = 0; s < paths.size(); ++s) {
    for (size_t i = prompt.size(); i < paths[s].size(); ++i) {
      trained.predict_from.push_back(begin + static_cast<int64_t>(i) - 1);
      trained.targets.push_back(flat.token_ids[begin + static_cast<int64_t>(i)]);
      trained.sequence_ids.push_back(static_cast<int64_t>(s));
      trained.weights.push_back(1.0f + 0.25f * static_cast<float>(s));
    }
    begin += static_cast<int64_t>(paths[s].size());
  }
  const auto gradients = [&](const batch::PackedBatch& packed) {
    auto fresh = test::load_golden("models/" + GetParam(), ops::Backend::kernels);
    for (ops::Parameter* p : fresh->parameters()) ops::enable_gradient(*p);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
    at::AutoGradMode grad(true);
    const at::Tensor logprobs =
        ops::token_logprobs(model::decoder(*fresh, nullptr, tensors, {.training = true}), fresh->head(), tensors, {}).logprobs;
    ops::sequence_sum(logprobs * tensors.weights, tensors.sequence_ids, tensors.num_sequences).sum().backward();
    ops::flush_lookups(fresh->embedding);
    return test::all_gradients(*fresh);
  };
  EXPECT_LE(test::relative_error(gradients(tree), gradients(trained)), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Models, ExactForward, testing::Values("tied_gqa2", "mqa_bias", "head_dim", "untied_mha_v4"));

}  // namespace exactness_test
}  // namespace hone
