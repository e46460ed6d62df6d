#pragma once
// The blocks of a row's log-sum-exp (cpu/logprobs.cpp states the formulas): training and sampling make them by the same code.
#include "hone/kernels/cpu/simd_math.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {

constexpr int64_t kBlock = 1024;
constexpr int64_t kBlocksPerTask = 8;  // about 3 microseconds of work
constexpr float kLowest = -3.40282347e+38f;
constexpr float kNoProbability = -90.0f;  // exp gives 0 from here on; keeps 0 * infinity out of p log p

HONE_INLINE int64_t block_count(int64_t vocabulary) { return (vocabulary + kBlock - 1) / kBlock; }
HONE_INLINE int64_t block_size(int64_t vocabulary, int64_t block) {
  return vocabulary - block * kBlock < kBlock ? vocabulary - block * kBlock : kBlock;
}

/// Statistics of one block at p[0], p[stride], ...: m, s, a, q, t.
template <bool kAll>
static void block_statistics(const float* x, int64_t count, float inv_temperature, float* p, int64_t stride) {
  const V scale = broadcast(inv_temperature);
  const int64_t whole = count / kLanes * kLanes, rest = count - whole;
  const auto tail = [&](float filler) { return select(first(rest), mul(load_n(x + whole, rest), scale), broadcast(filler)); };
  V largest = broadcast(kLowest), total = zero();
  for (int64_t i = 0; i < whole; i += kLanes) {
    const V value = mul(load(x + i), scale);
    largest = max(value, largest);
    if (kAll) total = add(total, value);
  }
  if (rest) {
    largest = max(tail(kLowest), largest);
    if (kAll) total = add(total, tail(0));
  }
  const float m = fold_max(largest);
  const V shift = broadcast(m);
  V sum = zero(), cross = zero(), square = zero();
  const auto take = [&](V value) {
    const V distance = sub(value, shift);
    const V e = exp(distance);
    sum = add(sum, e);
    if (kAll) {
      cross = fma(e, max(broadcast(kNoProbability), distance), cross);
      square = fma(e, e, square);
    }
  };
  for (int64_t i = 0; i < whole; i += kLanes) take(mul(load(x + i), scale));
  if (rest) {
    const V distance = sub(tail(0), shift);
    const V e = select(first(rest), exp(distance), zero());
    sum = add(sum, e);
    if (kAll) {
      cross = fma(e, select(first(rest), max(broadcast(kNoProbability), distance), zero()), cross);
      square = fma(e, e, square);
    }
  }
  p[0] = m;
  p[stride] = fold_add(sum);
  if (!kAll) return;
  p[2 * stride] = fold_add(cross);
  p[3 * stride] = fold_add(square);
  p[4 * stride] = fold_add(total);
}

/// The largest m of a row's blocks; weights[b] = exp(m_b - largest).
[[maybe_unused]] static float block_weights(const float* m, int64_t blocks, float* weights) {
  float largest = kLowest;
  for (int64_t b = 0; b < blocks; b++) largest = m[b] > largest ? m[b] : largest;
  for (int64_t b = 0; b < blocks; b += kLanes) {
    const int64_t left = blocks - b < kLanes ? blocks - b : kLanes;
    store_n(weights + b, exp(sub(load_n(m + b, left), broadcast(largest))), left);
  }
  return largest;
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
