#pragma once
// hone eval on held-out pairs: the report of a reward model, or which side a policy finds more likely.
#include "hone/config/run_config.h"

namespace hone::app {

/// Whether the first row of the first file is a pair (chosen, rejected).
bool holds_pairs(const std::string& file);

/// hone eval --reward model:DIR
int eval_reward_model(const config::RunConfig& config);

/// hone eval --model POLICY on pairs: how often the chosen completion has the higher log-probability, summed over its tokens. There is no
/// eval_loss: a policy is trained on pairs by many losses, most of them against a reference.
int eval_policy_on_pairs(const config::RunConfig& config);

}  // namespace hone::app
