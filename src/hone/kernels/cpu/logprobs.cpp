// Log-probabilities of given tokens and their gradient.
//
// With x the scaled logits of a row and b the blocks of 1,024 of them:
//   m_b = max x, s_b = lane sum exp(x - m_b), a_b = lane sum exp(x - m_b) (x - m_b), q_b = lane sum exp(x - m_b)^2, t_b = lane sum x
// merged with M = max m_b, w_b = exp(m_b - M), in ascending b:
//   s = chain s_b w_b;  A = chain w_b (a_b + s_b (m_b - M));  Q = chain w_b^2 q_b
//   lse = M + log s;  entropy = log s - A / s (no difference of large numbers);  log sum p^2 = log Q - 2 log s;  mean = sum t_b / V
// The last lines are float64, rounded once. A NaN logit reaches s_b, hence every output of its row but argmax, which never picks it.
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/softmax_blocks.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/logprobs.inc"

namespace {

constexpr int64_t kRowsAtOnce = 64;  // bounds the scratch for block statistics
constexpr int kStatistics = 5;

/// The lowest index of the row whose scaled logit is the largest.
int64_t find_argmax(const float* x, int64_t vocabulary, float inv_temperature, const float* m, float largest) {
  for (int64_t b = 0; b * kBlock < vocabulary; b++) {
    if (m[b] != largest) continue;
    const int64_t end = (b + 1) * kBlock < vocabulary ? (b + 1) * kBlock : vocabulary;
    for (int64_t i = b * kBlock; i < end; i++)
      if (x[i] * inv_temperature == largest) return i;
  }
  return 0;
}

/// Merges the statistics p[k * blocks + b] of one row and writes its outputs.
void merge_row(const float* x, int64_t vocabulary, int64_t row, int64_t target, float inv_temperature, const float* p, int64_t blocks, float* weights,
               bool all, const LogprobOutputs& out) {
  const float *m = p, *s = p + blocks, *a = p + 2 * blocks, *q = p + 3 * blocks, *t = p + 4 * blocks;
  const float largest = block_weights(m, blocks, weights);
  float sum = 0, cross = 0, square = 0;
  double total = 0;
  for (int64_t b = 0; b < blocks; b++) {
    const float w = weights[b];
    sum = __builtin_fmaf(s[b], w, sum);
    if (!all) continue;
    cross = __builtin_fmaf(w, __builtin_fmaf(s[b], m[b] - largest, a[b]), cross);
    square = __builtin_fmaf(w * w, q[b], square);
    total += static_cast<double>(t[b]);
  }
  const double log_sum = exact_log(static_cast<double>(sum));
  const double lse = static_cast<double>(largest) + log_sum;
  if (out.lse) out.lse[row] = static_cast<float>(lse);
  if (out.logprob) out.logprob[row] = static_cast<float>(static_cast<double>(x[target] * inv_temperature) - lse);
  if (out.entropy) out.entropy[row] = static_cast<float>(log_sum - static_cast<double>(cross) / static_cast<double>(sum));
  if (out.log_sum_p2) out.log_sum_p2[row] = static_cast<float>(exact_log(static_cast<double>(square)) - 2 * log_sum);
  if (out.mean_logit) out.mean_logit[row] = static_cast<float>(total / static_cast<double>(vocabulary));
  if (out.argmax) out.argmax[row] = find_argmax(x, vocabulary, inv_temperature, m, largest);
}

}  // namespace

void logprobs_forward(const float* logits, int64_t ld, int64_t M, int64_t vocabulary, const int64_t* targets, float inv_temperature,
                      const LogprobOutputs& out) {
  const int64_t blocks = block_count(vocabulary);
  const bool all = out.entropy || out.log_sum_p2 || out.mean_logit;
  for (int64_t row = 0; row < M; row += kRowsAtOnce) {
    const int64_t rows = M - row < kRowsAtOnce ? M - row : kRowsAtOnce;
    float* statistics = thread_scratch(3, rows * blocks * kStatistics);
    parallel(rows * blocks, kBlocksPerTask, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t r = i / blocks, b = i % blocks;
        const int64_t count = block_size(vocabulary, b);
        const auto kernel = all ? block_statistics<true> : block_statistics<false>;
        kernel(logits + (row + r) * ld + b * kBlock, count, inv_temperature, statistics + r * blocks * kStatistics + b, blocks);
      }
    });
    parallel(rows, kBlocksPerTask, [=, &out](int64_t begin, int64_t end) {
      float* weights = thread_scratch(0, blocks);
      for (int64_t r = begin; r < end; r++)
        merge_row(logits + (row + r) * ld, vocabulary, row + r, targets ? targets[row + r] : 0, inv_temperature,
                  statistics + r * blocks * kStatistics, blocks, weights, all, out);
    });
  }
}

void logprobs_backward(float* logits, int64_t ld, int64_t M, int64_t vocabulary, const int64_t* targets, float inv_temperature, const float* lse,
                       const float* g, const float* g_entropy, const float* entropy) {
  const int64_t blocks = (vocabulary + kBlock - 1) / kBlock;
  parallel(M * blocks, kBlocksPerTask, [=](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      const int64_t row = item / blocks, from = item % blocks * kBlock;
      const int64_t count = vocabulary - from < kBlock ? vocabulary - from : kBlock;
      float* x = logits + row * ld + from;
      const V scale = broadcast(inv_temperature), shift = broadcast(lse[row]);
      const V slope = broadcast(g[row]), entropy_slope = broadcast(g_entropy ? g_entropy[row] : 0), h = broadcast(g_entropy ? entropy[row] : 0);
      for (int64_t i = 0; i < count; i += kLanes) {
        const int64_t left = count - i;
        const V value = left >= kLanes ? load(x + i) : load_n(x + i, left);
        const V log_p = max(broadcast(kNoProbability), sub(mul(value, scale), shift));
        const V factor = g_entropy ? fma(entropy_slope, add(log_p, h), slope) : slope;
        const V gradient = neg(mul(mul(exp(log_p), factor), scale));
        if (left >= kLanes)
          store(x + i, gradient);
        else
          store_n(x + i, gradient, left);
      }
      const int64_t target = targets[row] - from;
      if (target >= 0 && target < count) x[target] += g[row] * inv_temperature;
    }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
