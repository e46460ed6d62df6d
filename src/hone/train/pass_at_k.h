#pragma once
// What sampled and judged completions are worth: pass@k, majority@k, with intervals by bootstrap over prompts. Pure functions.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hone/train/reward_report.h"

namespace hone::train {

/// The unbiased estimate of the chance that one of k completions is right, from n of which `right` were: 1 - C(n - right, k) / C(n, k)
/// (Chen et al., arXiv:2107.03374). k <= n.
double pass_at_k(int64_t n, int64_t right, int64_t k);

/// The answer that a completion gives, as votes are counted: the last \boxed{...}, else what follows the last "####" or "A:", else the last
/// number, else its last line; without spaces, and without commas between digits.
std::string answer_key(std::string_view completion);

/// Whether the answer that most of the completions give is right: that of a tie is the one that came first. A completion without text votes for
/// nothing.
bool majority_right(std::span<const std::string> keys, std::span<const bool> right);

/// The mean over prompts with its 95 % interval: percentiles of `resamples` means of prompts drawn with replacement. Its ends are the mean where
/// there are fewer than two prompts.
Estimate bootstrap_mean(std::span<const double> values, uint64_t seed, int64_t resamples = 2000);

}  // namespace hone::train
