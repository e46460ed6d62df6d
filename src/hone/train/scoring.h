#pragma once
// Per-token log-probabilities of token rows, and scores of a reward model, packed.
#include <cstdint>
#include <span>
#include <vector>

#include "hone/model/decoder.h"

namespace hone::train {

/// For each row of ids (at least one token): logprobs[i] = log p(ids[i+1] | ids[..i]), ids.size() - 1 of them. Rows are packed into
/// micro-batches of about that many tokens; the result does not depend on it.
std::vector<std::vector<float>> score_rows(model::Model& model, std::span<const std::vector<int32_t>> rows, int64_t micro_batch_tokens,
                                           const ops::AdapterSet* adapters = nullptr);

/// The reward head's score of each row of ids at its last token: of `adapters` where they have a head, else of the model.
/// Rows of one prompt that follow each other are computed as a tree; how rows are packed does not change a bit.
std::vector<float> reward_scores(model::Model& model, std::span<const std::vector<int32_t>> rows, int64_t micro_batch_tokens,
                                 const ops::AdapterSet* adapters = nullptr);

}  // namespace hone::train
