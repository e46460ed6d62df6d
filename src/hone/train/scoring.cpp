#include "hone/train/scoring.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace hone::train {
namespace {

// Rows in order, cut into runs that have most in common (the samples of one prompt: at least half of the shorter row), whose prompt is then
// computed once. A run whose rows hold more than `most` tokens together is cut. `weights`: those of every row.
std::vector<std::vector<batch::Branch>> runs_of_a_prompt(std::span<const std::vector<int32_t>> rows, const float* weights, int64_t most) {
  std::vector<std::vector<batch::Branch>> runs;
  int64_t tokens = 0;
  for (const auto& row : rows) {
    const auto count = static_cast<int64_t>(row.size());
    bool joins = false;
    if (!runs.empty() && tokens + count <= most) {
      const batch::Branch& first = runs.back().front();
      const int64_t shorter = std::min(count, first.count);
      joins = 2 * (std::mismatch(first.ids, first.ids + shorter, row.data()).first - first.ids) >= shorter;
    }
    if (!joins) {
      runs.emplace_back();
      tokens = 0;
    }
    runs.back().push_back({row.data(), weights, count});
    tokens += count;
  }
  return runs;
}

}  // namespace

std::vector<std::vector<float>> score_rows(model::Model& model, std::span<const std::vector<int32_t>> rows, int64_t micro_batch_tokens,
                                           const ops::AdapterSet* adapters) {
  std::vector<int64_t> lengths;
  for (const auto& row : rows) lengths.push_back(static_cast<int64_t>(row.size()));
  if (!lengths.empty()) model::ensure_positions(model, *std::max_element(lengths.begin(), lengths.end()));
  std::vector<std::vector<float>> out;
  int64_t begin = 0;
  for (int64_t end : batch::plan_micro_batches(lengths, micro_batch_tokens)) {
    batch::PackedBatch packed;
    for (int64_t i = begin; i < end; ++i) batch::append_document(packed, rows[i].data(), nullptr, lengths[i], /*keep_all=*/true);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    at::NoGradGuard no_grad;
    const at::Tensor hidden = model::decoder(model, adapters, tensors, {});
    const at::Tensor logprobs = ops::token_logprobs(hidden, model.head(adapters), tensors, {}).logprobs.cpu().contiguous();
    const float* p = logprobs.const_data_ptr<float>();
    for (int64_t i = begin; i < end; ++i) {
      out.emplace_back(p, p + lengths[i] - 1);
      p += lengths[i] - 1;
    }
    begin = end;
  }
  return out;
}

std::vector<float> reward_scores(model::Model& model, std::span<const std::vector<int32_t>> rows, int64_t micro_batch_tokens,
                                 const ops::AdapterSet* adapters) {
  size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, row.size());
  if (!rows.empty()) model::ensure_positions(model, static_cast<int64_t>(longest));
  const std::vector<float> no_predictions(longest, 0.0f);
  const std::vector<std::vector<batch::Branch>> runs = runs_of_a_prompt(rows, no_predictions.data(), micro_batch_tokens);
  std::vector<int64_t> lengths;
  for (const auto& run : runs) lengths.push_back(batch::tree_tokens(run, micro_batch_tokens));
  std::vector<float> out;
  int64_t begin = 0;
  for (int64_t end : batch::plan_micro_batches(lengths, micro_batch_tokens)) {
    batch::PackedBatch packed;
    for (; begin < end; ++begin) batch::append_tree(packed, runs[begin], micro_batch_tokens);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    at::NoGradGuard no_grad;
    const at::Tensor scores = model::sequence_scores(model, adapters, model::decoder(model, adapters, tensors, {}), tensors).cpu().contiguous();
    out.insert(out.end(), scores.const_data_ptr<float>(), scores.const_data_ptr<float>() + scores.numel());
  }
  return out;
}

}  // namespace hone::train
