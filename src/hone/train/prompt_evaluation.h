#pragma once
// Evaluation by sampling: completions of held-out prompts, judged. What `hone eval --reward` prints, and what a run says of --eval_file.
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hone/train/rollout_source.h"

namespace hone::train {

/// num_generations completions of every prompt, judged by every reward. The noise of a completion follows from (seed, prompt, sample): two close
/// models are compared under the same noise.
std::vector<DrawnGroup> sample_and_judge(model::Model& model, const ops::AdapterSet* adapters, const PromptData& prompts, const SamplingSetup& setup);

/// PREFIX pass@K for each k, PREFIX majority@K for each k above 1, PREFIX reward, mean_length, unparsed, clipped_ratio; each with _low and _high.
/// A completion passes where the first reward's verdict is `right`.
Json prompt_figures(std::span<const DrawnGroup> groups, const SamplingSetup& setup, std::span<const int64_t> pass_k, const std::string& prefix);

/// Each group's mean total reward; NaN where no completion has one.
std::vector<double> prompt_scores(std::span<const DrawnGroup> groups, const SamplingSetup& setup);

/// The row's line in the file of verdicts: {"row","line","right","completions":[{"text","finish_reason","verdict","reward","detail"}]}.
Json verdict_line(const DrawnGroup& group, const PromptData& prompts);

}  // namespace hone::train
