// Sampling by the Gumbel-max trick: argmax of scaled logits + Gumbel noise has the softmax distribution.
//
// The noise of token v is -log(E), E = -log(1 - t), t = (w + 1/2) 2^-32, w = word v % 4 of Philox4x32-10 at counter {c0, c1, c2, v / 4}
// (base/rng.h), so that it depends on nothing but key, counter and v. Large noise (small t) keeps its full relative precision.
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/softmax_blocks.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/logprobs.inc"

namespace {

constexpr int64_t kGroup = 64;   // tokens of sixteen counters
constexpr int64_t kSpan = 1024;  // tokens per unit of work
constexpr int64_t kSpansPerTask = 4;

constexpr int32_t kCount[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/// Ten rounds of Philox4x32 on sixteen counters {counter, lane of `last`}; the four words of each.
void philox(uint64_t key, const uint32_t counter[3], I last, I x[4]) {
  for (int i = 0; i < 3; i++) x[i] = broadcast_int(static_cast<int32_t>(counter[i]));
  x[3] = last;
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; round++) {
    const Wide first_product = multiply_wide(x[0], 0xD2511F53u), second_product = multiply_wide(x[2], 0xCD9E8D57u);
    x[0] = bit_xor(bit_xor(second_product.high, x[1]), broadcast_int(static_cast<int32_t>(key0)));
    x[1] = second_product.low;
    x[2] = bit_xor(bit_xor(first_product.high, x[3]), broadcast_int(static_cast<int32_t>(key1)));
    x[3] = first_product.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/// words[i] for tokens first..first + 63 (first a multiple of 64): one counter a lane.
void philox_group(uint64_t key, const uint32_t counter[3], uint32_t first, int32_t* words) {
  I x[4];
  philox(key, counter, add(load_int(kCount), broadcast_int(static_cast<int32_t>(first / 4))), x);
  alignas(64) int32_t rows[4][kLanes];
  for (int i = 0; i < 4; i++) store_int(rows[i], x[i]);
  for (int j = 0; j < kLanes; j++)
    for (int i = 0; i < 4; i++) words[4 * j + i] = rows[i][j];
}

V noise_of(I w) {
  // y = t where t < 1/2, else 1 - t: with r = w or its complement, both are (r + 1/2) 2^-32, exact in the bits that matter.
  const I sign = sub(broadcast_int(0), shift_right<31>(w));
  const V y = mul(add(to_float(bit_xor(w, sign)), broadcast(0.5f)), broadcast(0x1p-32f));
  const Mask is_small = eq(to_float(sign), zero());
  const V one = broadcast(1.0f);
  const V rest = sub(one, y);
  // log(1 - y) = log(rest) + (1 - y - rest) / rest to first order in the rounding of rest.
  const V correction = div(sub(sub(one, rest), y), rest);
  const V logarithm = add(log(select(is_small, rest, y)), select(is_small, correction, zero()));
  return neg(log(neg(logarithm)));
}

struct Best {
  float score;
  int64_t index;
};

/// The best of tokens begin..end-1 (begin a multiple of 64). NaN is never picked.
Best best_of(const float* logits, int64_t begin, int64_t end, float inv_temperature, uint64_t key, const uint32_t counter[3]) {
  alignas(64) int32_t words[kGroup];
  alignas(64) float scores[kLanes];
  alignas(64) int32_t indices[kLanes];
  const V scale = broadcast(inv_temperature), lowest = broadcast(-__builtin_inff());
  V best = lowest, where = as_float(broadcast_int(0));
  for (int64_t group = begin; group < end; group += kGroup) {
    philox_group(key, counter, static_cast<uint32_t>(group), words);
    for (int64_t i = 0; i < kGroup && group + i < end; i += kLanes) {
      const int64_t left = end - group - i < kLanes ? end - group - i : kLanes;
      const V noise = noise_of(load_int(words + i));
      const V score = select(first(left), add(mul(load_n(logits + group + i, left), scale), noise), lowest);
      const Mask better = lt(best, score);
      best = select(better, score, best);
      where = select(better, as_float(add(load_int(kCount), broadcast_int(static_cast<int32_t>(group + i)))), where);
    }
  }
  store(scores, best);
  store_int(indices, as_int(where));
  Best found = {-__builtin_inff(), begin};
  for (int64_t i = 0; i < kLanes; i++)
    if (scores[i] > found.score || (scores[i] == found.score && scores[i] > -__builtin_inff() && indices[i] < found.index))
      found = {scores[i], indices[i]};
  return found;
}

}  // namespace

int64_t gumbel_argmax(const float* logits, int64_t vocabulary, float inv_temperature, uint64_t key, const uint32_t counter[3]) {
  const int64_t spans = (vocabulary + kSpan - 1) / kSpan;
  Best* best = reinterpret_cast<Best*>(thread_scratch(3, spans * static_cast<int64_t>(sizeof(Best) / sizeof(float))));
  parallel(spans, kSpansPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t span = begin; span < end; span++) {
      const int64_t last = (span + 1) * kSpan < vocabulary ? (span + 1) * kSpan : vocabulary;
      best[span] = best_of(logits, span * kSpan, last, inv_temperature, key, counter);
    }
  });
  Best found = {-__builtin_inff(), 0};
  for (int64_t span = 0; span < spans; span++)
    if (best[span].score > found.score) found = best[span];
  return found.index;
}

void gumbel_noise(int64_t vocabulary, uint64_t key, const uint32_t counter[3], float* noise) {
  int32_t words[kGroup];
  for (int64_t group = 0; group < vocabulary; group += kGroup) {
    philox_group(key, counter, static_cast<uint32_t>(group), words);
    for (int64_t i = 0; i < kGroup && group + i < vocabulary; i += kLanes) {
      const int64_t left = vocabulary - group - i;
      store_n(noise + group + i, noise_of(load_int(words + i)), left < kLanes ? left : kLanes);
    }
  }
}

void gumbel_of(const int32_t* ids, int64_t count, uint64_t key, const uint32_t counter[3], float* noise) {
  alignas(64) int32_t words[4][kLanes], index[kLanes], chosen[kLanes];
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t left = count - i < kLanes ? count - i : kLanes;
    for (int64_t j = 0; j < kLanes; j++) index[j] = ids[i + (j < left ? j : 0)];
    I x[4];
    philox(key, counter, shift_right<2>(load_int(index)), x);
    for (int k = 0; k < 4; k++) store_int(words[k], x[k]);
    for (int64_t j = 0; j < kLanes; j++) chosen[j] = words[index[j] & 3][j];
    store_n(noise + i, noise_of(load_int(chosen)), left);
  }
}

void softmax_blocks(const float* logits, int64_t ld, int64_t M, int64_t vocabulary, float inv_temperature, float* m, float* s) {
  const int64_t blocks = block_count(vocabulary);
  parallel(M * blocks, kBlocksPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      float pair[2];
      const int64_t b = i % blocks;
      block_statistics<false>(logits + i / blocks * ld + b * kBlock, block_size(vocabulary, b), inv_temperature, pair, 1);
      m[i] = pair[0];
      s[i] = pair[1];
    }
  });
}

SoftmaxRow softmax_row(const float* m, const float* s, int64_t vocabulary) {
  const int64_t blocks = block_count(vocabulary);
  float* weights = thread_scratch(0, blocks);
  SoftmaxRow row = {block_weights(m, blocks, weights), 0, 0};
  for (int64_t b = 0; b < blocks; b++) row.sum = __builtin_fmaf(s[b], weights[b], row.sum);
  row.lse = static_cast<double>(row.largest) + exact_log(static_cast<double>(row.sum));
  return row;
}

int64_t likely_tokens(const float* logits, int64_t vocabulary, float inv_temperature, float threshold, const float* m, const float* s, int32_t* ids,
                      float* rest) {
  const int64_t blocks = block_count(vocabulary);
  float* weights = thread_scratch(0, blocks);
  block_weights(m, blocks, weights);
  const V scale = broadcast(inv_temperature), bound = broadcast(threshold);
  int64_t count = 0;
  float sum = 0;
  for (int64_t b = 0; b < blocks; b++) {
    if (m[b] < threshold) {  // the whole block lies below
      sum = __builtin_fmaf(s[b], weights[b], sum);
      continue;
    }
    const float* x = logits + b * kBlock;
    const int64_t size = block_size(vocabulary, b);
    const V shift = broadcast(m[b]);
    V below = zero();
    for (int64_t i = 0; i < size; i += kLanes) {
      const int64_t left = size - i < kLanes ? size - i : kLanes;
      const V value = mul(load_n(x + i, left), scale);
      const Mask is_below = lt(value, bound);
      below = add(below, select(first(left), select(is_below, exp(sub(value, shift)), zero()), zero()));
      for (uint32_t set = bits(le(bound, value)) & ((1u << left) - 1); set != 0; set &= set - 1)
        ids[count++] = static_cast<int32_t>(b * kBlock + i + __builtin_ctz(set));
    }
    sum = __builtin_fmaf(fold_add(below), weights[b], sum);
  }
  *rest = sum;
  return count;
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
