#pragma once
// Dropout whose mask is a pure function of what the element is (seed, step, linear, target, token, column), never of how it was batched.
#include <cstdint>

#include "hone/ops/adapter_set.h"

namespace hone::ops {

/// y[t][k] = keep ? x[t][k] / (1 - p) : 0 for x, y (T, K); keep where 16 random bits >= p * 65,536 (p is met to 1 in 65,536).
/// T must be the number of token keys. x and y may not overlap.
void apply_dropout(const SideDropout& dropout, uint32_t linear, uint32_t target, const float* x, int64_t T, int64_t K, float* y);

}  // namespace hone::ops
