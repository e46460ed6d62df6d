#include "hone/base/rng.h"

#include <utility>

namespace hone {

std::array<uint32_t, 4> philox4x32(uint64_t key, std::array<uint32_t, 4> x) {
  // Multipliers and Weyl increments of the paper, table 2 (W = 4, 32 bits).
  constexpr uint64_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
  constexpr uint32_t increment0 = 0x9E3779B9, increment1 = 0xBB67AE85;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = multiplier0 * x[0], product1 = multiplier1 * x[2];
    x = {static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(product1), static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key1,
         static_cast<uint32_t>(product0)};
    key0 += increment0;
    key1 += increment1;
  }
  return x;
}

uint64_t random_bits(uint64_t seed, Purpose purpose, uint32_t a, uint32_t b, uint32_t c) {
  const auto words = philox4x32(seed, {a, b, c, static_cast<uint32_t>(purpose)});
  return words[0] | static_cast<uint64_t>(words[1]) << 32;
}

double random_unit(uint64_t seed, Purpose purpose, uint32_t a, uint32_t b, uint32_t c) {
  // k 2^-53 for k in 1..2^53-1 is exact and at most 1 - 2^-53; k + 0.5 would round to 1 at the upper end.
  const uint64_t k = random_bits(seed, purpose, a, b, c) >> 11;
  return k == 0 ? 0x1p-54 : static_cast<double>(k) * 0x1p-53;
}

namespace {

/// Uniform in 0..bound-1 by Lemire's multiplication, rejecting the 2^32 mod bound draws that would favour some results.
uint32_t random_below(uint64_t seed, uint32_t epoch, uint32_t draw, uint32_t bound) {
  const uint32_t rejected_below = (0u - bound) % bound;
  for (uint32_t attempt = 0;; ++attempt) {
    for (const uint32_t word : philox4x32(seed, {epoch, draw, attempt, static_cast<uint32_t>(Purpose::shuffle)})) {
      const uint64_t product = static_cast<uint64_t>(word) * bound;
      if (static_cast<uint32_t>(product) >= rejected_below) return static_cast<uint32_t>(product >> 32);
    }
  }
}

}  // namespace

void random_permutation(uint64_t seed, uint32_t epoch, uint32_t n, uint32_t* out) {
  for (uint32_t i = 0; i < n; ++i) out[i] = i;
  for (uint32_t i = n; i > 1; --i) std::swap(out[i - 1], out[random_below(seed, epoch, i, i)]);
}

}  // namespace hone
