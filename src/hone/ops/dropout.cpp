#include "hone/ops/dropout.h"

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/base/rng.h"
#include "hone/base/threads.h"

namespace hone::ops {

void apply_dropout(const SideDropout& dropout, uint32_t linear, uint32_t target, const float* x, int64_t T, int64_t K, float* y) {
  check(static_cast<int64_t>(dropout.token_keys.size()) == T, "dropout: {} token keys for {} tokens", dropout.token_keys.size(), T);
  check(linear < (1u << 24) && target < (1u << 8) && K <= (1 << 16) * 8, "dropout: linear {}, target {}, {} columns", linear, target, K);
  const auto threshold = static_cast<uint32_t>(std::lround(dropout.p * 65536.0));
  const auto scale = static_cast<float>(1.0 / (1.0 - dropout.p));
  // One key for a step, so that the counter is free for what varies inside it.
  const uint64_t key = random_bits(dropout.seed, Purpose::dropout, dropout.step, linear, target);
  parallel_for(T, 16, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const uint64_t token = dropout.token_keys[t];
      for (int64_t k = 0; k < K; k += 8) {  // eight columns take 16 bits each of one draw
        const auto words = philox4x32(key, {static_cast<uint32_t>(k / 8), static_cast<uint32_t>(token), static_cast<uint32_t>(token >> 32), 0});
        for (int64_t i = 0; i < std::min<int64_t>(8, K - k); ++i) {
          const uint32_t bits = words[i / 2] >> (i % 2 * 16) & 0xFFFF;
          y[t * K + k + i] = bits >= threshold ? x[t * K + k + i] * scale : 0.0f;
        }
      }
    }
  });
}

}  // namespace hone::ops
