#pragma once
// What rendering and tokenising a row yields: the only currency between tokenizer, sampler and trainer is token ids.
#include <cstdint>
#include <string>
#include <vector>

namespace hone::text {

/// A training row as tokens. All three vectors have the same length.
struct TokenizedRow {
  std::vector<int32_t> ids;
  std::vector<float> weights;  // weights[i] = loss weight of predicting ids[i]; 1 = trained on, 0 = context only
  std::vector<uint8_t> roles;  // index into role_names
  int32_t prompt_length = 0;   // tokens before the first trained one that the sampler would be given (prompt rows); 0 otherwise
};

}  // namespace hone::text
