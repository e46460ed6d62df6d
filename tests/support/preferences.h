#pragma once
// Pairs and labelled rows that own their tokens, and what a reference model gives for them.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <deque>

#include "hone/data/pair_row.h"
#include "hone/methods/method.h"
#include "support/golden_model.h"

namespace hone::test {

/// Token rows with stable addresses.
class TokenRows {
 public:
  /// A prompt and its completion, which alone has weights.
  data::TokenRow add(const std::vector<int32_t>& prompt, const std::vector<int32_t>& completion) {
    Tokens& t = tokens_.emplace_back();
    t.ids = prompt;
    t.ids.insert(t.ids.end(), completion.begin(), completion.end());
    t.weights.assign(prompt.size(), 0.0f);
    t.weights.resize(t.ids.size(), 1.0f);
    return {t.ids, t.weights, {}, static_cast<int32_t>(prompt.size()), static_cast<int64_t>(tokens_.size()) - 1};
  }

 private:
  struct Tokens {
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  std::deque<Tokens> tokens_;
};

inline std::vector<int32_t> some_tokens(int64_t count, int seed, int64_t vocabulary) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + seed * 104729 + i * i * 31) % vocabulary));
  return ids;
}

/// Pairs of different lengths; every third pair's completions begin alike.
inline std::vector<data::PairRow> some_pairs(TokenRows& tokens, int count, int64_t vocabulary) {
  std::vector<data::PairRow> pairs;
  for (int i = 0; i < count; ++i) {
    const std::vector<int32_t> prompt = some_tokens(2 + i * 5 % 11, 3 * i, vocabulary);
    std::vector<int32_t> chosen = some_tokens(1 + i * 7 % 9, 3 * i + 1, vocabulary), rejected = some_tokens(2 + i * 3 % 8, 3 * i + 2, vocabulary);
    if (i % 3 == 0) rejected[0] = chosen[0];
    pairs.push_back({tokens.add(prompt, chosen), tokens.add(prompt, rejected), 0.0});
  }
  return pairs;
}

/// Fills the method's reference with what the model gives for it, plus `shift` nats times a number between -1 and 1 of each token's own.
inline void score_reference(methods::Method& method, model::Model& model, float shift = 0) {
  if (!method.reference()) return;
  at::AutoGradMode no_grad(false);
  for (int64_t row = 0; row < method.num_rows(); ++row) {
    batch::PackedBatch packed;
    method.append_reference(packed, row);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
    const at::Tensor logprobs = ops::token_logprobs(model::decoder(model, nullptr, tensors, {}), model.head(), tensors, {}).logprobs.contiguous();
    std::vector<float> values(logprobs.const_data_ptr<float>(), logprobs.const_data_ptr<float>() + logprobs.numel());
    for (size_t i = 0; i < values.size(); ++i)
      values[i] += shift * static_cast<float>(std::sin(static_cast<double>(31 * row) + 1.7 * static_cast<double>(i)));
    method.reference()->set(row, std::move(values));
  }
}

inline std::vector<int64_t> all_rows(const methods::Method& method) {
  std::vector<int64_t> rows(method.num_rows());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return rows;
}

}  // namespace hone::test
