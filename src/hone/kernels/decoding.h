#pragma once
// What decoding needs beside the kernels of the forward pass (kernels.h, whose shape letters and rules of exactness hold here, too).
#include <cstdint>

namespace hone::kernels {

// ---- keys and values in blocks (attention.cpp) -----------------------------------------------------------------------------------
/// The cache of many sequences, in blocks of 64 tokens that sequences may share. A block holds all layers; a layer stands `offset` floats into it,
/// kv_layer_floats(G, d) of them: for each kv head the keys in panels of 16 as above, then the values (64, d).
constexpr int64_t kKvBlock = 64;
constexpr int64_t kv_layer_floats(int64_t G, int64_t d) { return 2 * G * kKvBlock * d; }
struct KvRow {
  float* const* blocks;  // of the row's sequence: position p stands in blocks[p / 64]
  int64_t position;
};
/// qkv (R, (H + 2G) d; row stride ld): queries and keys are rotated in place (rope_apply's bits), keys and values go into the cache.
void rope_to_cache(int64_t R, int64_t H, int64_t G, int64_t d, float* qkv, int64_t ld, const KvRow* rows, int64_t offset, const float* cos,
                   const float* sin);
/// Row r attends to positions 0..rows[r].position of its sequence: the bits of attention_forward.
void attention_blocks(int64_t R, int64_t H, int64_t G, int64_t d, float scale, const float* q, int64_t ldq, const KvRow* rows, int64_t offset,
                      float* out, int64_t ldo);

// ---- choosing tokens (logprobs.cpp) ----------------------------------------------------------------------------------------------
/// The same log-sum-exp in its parts, for choosing a token. m, s (M, soft_blocks(V)): largest scaled logit and sum of exp(x - m) of each block.
constexpr int64_t soft_blocks(int64_t V) { return (V + 1023) / 1024; }
void softmax_blocks(const float* logits, int64_t ld, int64_t M, int64_t V, float inv_temperature, float* m, float* s);
/// One row out of its blocks: the largest scaled logit, the sum of exp(x - largest), lse unrounded. A token's log-probability is
/// float(double(logit * inv_temperature) - lse), the bits of logprobs_forward.
struct SoftmaxRow {
  float largest = 0, sum = 0;
  double lse = 0;
};
SoftmaxRow softmax_row(const float* m, const float* s, int64_t V);
/// The tokens of one row whose scaled logit is at least `threshold`, ascending into ids (V); rest: the sum of exp(x - largest) over the others. A
/// block that holds none costs nothing. Returns their number.
int64_t likely_tokens(const float* logits, int64_t V, float inv_temperature, float threshold, const float* m, const float* s, int32_t* ids,
                      float* rest);
/// noise[i] = Gumbel(key, counter, ids[i]) as cpu/sampling.cpp defines it; ids are read as unsigned.
void gumbel_of(const int32_t* ids, int64_t count, uint64_t key, const uint32_t counter[3], float* noise);

}  // namespace hone::kernels
