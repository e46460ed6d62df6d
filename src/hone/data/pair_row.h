#pragma once
// Preference rows as tokens.
#include "hone/data/token_cache.h"

namespace hone::data {

/// A pair: each side is the whole sequence, prompt + completion up to and with its end-of-turn token, and only the completion has weights.
/// The prompts (prompt_length tokens) are the same tokens.
struct PairRow {
  TokenRow chosen, rejected;
  double margin = 0;  // how much better chosen is, in units of the reward; 0 where the row has none
};

/// A completion that is good (label) or bad.
struct UnpairedRow {
  TokenRow row;
  bool label = false;
};

}  // namespace hone::data
