#include "hone/train/pair_scoring.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "hone/base/error.h"

namespace hone::train {
namespace {

// Calls body(first, tensors, hidden) for every micro-batch; it holds pairs first, first + 1, ... as sequences 0 and 1, 2 and 3, ...
void each_batch(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass, bool predictions,
                const std::function<void(size_t first, const ops::BatchTensors& tensors, const at::Tensor& hidden)>& body) {
  size_t longest = 1;
  for (const data::PairRow& p : pairs) longest = std::max({longest, p.chosen.ids.size(), p.rejected.ids.size()});
  const std::vector<float> no_weights(longest, 0.0f);
  const auto branches = [&](const data::PairRow& p) {
    const auto branch = [&](const data::TokenRow& r) {
      return batch::Branch{r.ids.data(), predictions ? r.weights.data() : no_weights.data(), static_cast<int64_t>(r.ids.size())};
    };
    return std::array{branch(p.chosen), branch(p.rejected)};
  };
  std::vector<int64_t> tokens;
  for (const data::PairRow& p : pairs) tokens.push_back(batch::tree_tokens(branches(p), pass.max_tree_tokens));
  model::ensure_positions(model, static_cast<int64_t>(longest));
  at::NoGradGuard no_grad;
  size_t begin = 0;
  for (const int64_t end : batch::plan_micro_batches(tokens, pass.micro_batch_tokens)) {
    batch::PackedBatch packed;
    const size_t first = begin;
    for (; begin < static_cast<size_t>(end); ++begin) batch::append_tree(packed, branches(pairs[begin]), pass.max_tree_tokens);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    body(first, tensors, model::decoder(model, pass.adapters, tensors, {}));
  }
}

int64_t completion_tokens(const data::TokenRow& row) { return static_cast<int64_t>(row.ids.size()) - row.prompt_length; }

}  // namespace

std::vector<ScoredPair> score_pairs(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass) {
  std::vector<ScoredPair> out;
  for (const data::PairRow& p : pairs) out.push_back({0, 0, completion_tokens(p.chosen), completion_tokens(p.rejected), p.margin});
  each_batch(model, pairs, pass, false, [&](size_t first, const ops::BatchTensors& tensors, const at::Tensor& hidden) {
    const at::Tensor scores = model::sequence_scores(model, pass.adapters, hidden, tensors).cpu().contiguous();
    for (int64_t i = 0; i < scores.numel(); ++i) {
      ScoredPair& pair = out[first + static_cast<size_t>(i / 2)];
      (i % 2 == 0 ? pair.chosen : pair.rejected) = scores.const_data_ptr<float>()[i];
    }
  });
  return out;
}

RewardReport held_out_report(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass) {
  const std::vector<ScoredPair> scored = score_pairs(model, pairs, pass);
  for (size_t i = 0; i < scored.size(); ++i)
    if (!std::isfinite(scored[i].chosen) || !std::isfinite(scored[i].rejected))
      fail("held-out pair {}: its scores are {} and {}: the reward model's values overflow float32; take another checkpoint", i + 1, scored[i].chosen,
           scored[i].rejected);
  return reward_report(scored);
}

std::vector<PairLogprobs> pair_logprobs(model::Model& model, std::span<const data::PairRow> pairs, const PairPass& pass) {
  std::vector<PairLogprobs> out(pairs.size());
  each_batch(model, pairs, pass, true, [&](size_t first, const ops::BatchTensors& tensors, const at::Tensor& hidden) {
    const at::Tensor logprobs = ops::token_logprobs(hidden, model.head(pass.adapters), tensors, {}).logprobs;
    const auto sums = [&](const at::Tensor& values) {
      return ops::sequence_sum(values, tensors.sequence_ids, tensors.num_sequences).cpu().contiguous();
    };
    const at::Tensor sum = sums(logprobs), count = sums(at::ones_like(logprobs));
    for (int64_t i = 0; i < sum.numel(); ++i) {
      out[first + static_cast<size_t>(i / 2)].sum[i % 2] = sum.const_data_ptr<double>()[i];
      out[first + static_cast<size_t>(i / 2)].tokens[i % 2] = static_cast<int64_t>(count.const_data_ptr<double>()[i]);
    }
  });
  return out;
}

}  // namespace hone::train
