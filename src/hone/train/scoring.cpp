#include "hone/train/scoring.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

namespace hone::train {

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
  std::vector<int64_t> lengths;
  for (const auto& row : rows) lengths.push_back(static_cast<int64_t>(row.size()));
  if (!lengths.empty()) model::ensure_positions(model, *std::max_element(lengths.begin(), lengths.end()));
  std::vector<float> out;
  int64_t begin = 0;
  for (int64_t end : batch::plan_micro_batches(lengths, micro_batch_tokens)) {
    batch::PackedBatch packed;
    for (; begin < end; ++begin) {
      const std::vector<float> no_predictions(rows[begin].size(), 0.0f);
      batch::append_document(packed, rows[begin].data(), no_predictions.data(), lengths[begin]);
    }
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    at::NoGradGuard no_grad;
    const at::Tensor scores = model::sequence_scores(model, adapters, model::decoder(model, adapters, tensors, {}), tensors).cpu().contiguous();
    out.insert(out.end(), scores.const_data_ptr<float>(), scores.const_data_ptr<float>() + scores.numel());
  }
  return out;
}

}  // namespace hone::train
