#pragma once
// A reward model as a reward: the score of its head at the end of prompt + completion, in its own tokens.
#include <memory>
#include <string>

#include "hone/adapters/lora.h"
#include "hone/model/decoder.h"
#include "hone/rewards/reward.h"
#include "hone/text/chat_template.h"
#include "hone/text/tokenizer.h"

namespace hone::train {

/// A loaded reward model with what turns text into its tokens.
struct RewardModelParts {
  std::shared_ptr<const void> owner;  // keeps the rest alive
  const model::ModelConfig* config = nullptr;
  model::Model* model = nullptr;  // null where only rows are checked
  ops::AdapterSet* adapters = nullptr;
  const text::Tokenizer* tokenizer = nullptr;
  const text::ChatTemplate* chat = nullptr;
  int64_t micro_batch_tokens = 1024;
};

/// The row's prompt and the completion's text are rendered as a conversation and tokenised by the reward model's own tokenizer and template: it
/// may be another one than the policy's. A completion that it cannot score (no tokens, a score that is not finite, longer than its positions)
/// has the verdict crashed and no reward; the others are `right` where the score is above 0.
std::unique_ptr<rewards::Reward> make_model_reward(RewardModelParts parts);

}  // namespace hone::train
