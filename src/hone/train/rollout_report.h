#pragma once
// What is told of a rollout: the lines of completions.jsonl, and shares of verdicts. Every figure of metrics.jsonl that speaks of completions
// can be computed again from completions.jsonl (docs/grpo.md).
#include <span>

#include "hone/train/journal.h"
#include "hone/train/metrics.h"
#include "hone/train/prompt_data.h"

namespace hone::train {

/// {"step","row","sample","text","ids","logprobs","finish_reason","rewards","verdicts","advantage"} and "draw"; "sampler_logprobs" where the
/// sampler's law was truncated, "details" where a reward said more. `logprobs` are those that are trained: tempered, untruncated. A sample
/// without a score has null for that reward, and a group that was replaced has advantage null.
Json completion_line(int64_t step, const DrawnGroup& group, size_t sample, const PromptData& prompts, const std::vector<NamedReward>& rewards,
                     double advantage);

/// verdicts/VERDICT: its share of all judgements, for each of the six; with several rewards also verdicts/NAME/VERDICT of each.
void add_verdicts(Json& line, std::span<const DrawnGroup> groups, const std::vector<NamedReward>& rewards);

/// The float as the JSON number that has the fewest digits and reads back to it; null where it is not finite.
Json short_number(float value);

}  // namespace hone::train
