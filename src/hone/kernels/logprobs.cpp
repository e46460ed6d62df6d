// Run-time choice of the instruction set for log-probabilities and sampling.
#include "hone/base/error.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/logprobs.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/logprobs.inc"
}

void logprobs_forward(const float* logits, int64_t ld, int64_t M, int64_t V, const int64_t* targets, float inv_temperature,
                      const LogprobOutputs& out) {
  check(V > 0 && (targets || !out.logprob), "logprobs_forward: {} columns, log-probabilities wanted {} but targets are null", V,
        out.logprob != nullptr);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::logprobs_forward : avx2::logprobs_forward;
  kernel(logits, ld, M, V, targets, inv_temperature, out);
}

void logprobs_backward(float* logits, int64_t ld, int64_t M, int64_t V, const int64_t* targets, float inv_temperature, const float* lse,
                       const float* g, const float* g_entropy, const float* entropy) {
  check(!g_entropy || entropy, "logprobs_backward: the gradient of the entropy ({} rows) needs the entropy", M);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::logprobs_backward : avx2::logprobs_backward;
  kernel(logits, ld, M, V, targets, inv_temperature, lse, g, g_entropy, entropy);
}

int64_t gumbel_argmax(const float* logits, int64_t V, float inv_temperature, uint64_t key, const uint32_t counter[3]) {
  check(V > 0 && V < (int64_t{1} << 31), "gumbel_argmax: {} logits", V);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::gumbel_argmax : avx2::gumbel_argmax;
  return kernel(logits, V, inv_temperature, key, counter);
}

void softmax_blocks(const float* logits, int64_t ld, int64_t M, int64_t V, float inv_temperature, float* m, float* s) {
  check(V > 0 && ld >= V, "softmax_blocks: {} columns at a stride of {}", V, ld);
  const auto kernel = active_isa() == Isa::avx512 ? avx512::softmax_blocks : avx2::softmax_blocks;
  kernel(logits, ld, M, V, inv_temperature, m, s);
}

SoftmaxRow softmax_row(const float* m, const float* s, int64_t V) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::softmax_row : avx2::softmax_row;
  return kernel(m, s, V);
}

int64_t likely_tokens(const float* logits, int64_t V, float inv_temperature, float threshold, const float* m, const float* s, int32_t* ids,
                      float* rest) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::likely_tokens : avx2::likely_tokens;
  return kernel(logits, V, inv_temperature, threshold, m, s, ids, rest);
}

void gumbel_of(const int32_t* ids, int64_t count, uint64_t key, const uint32_t counter[3], float* noise) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::gumbel_of : avx2::gumbel_of;
  kernel(ids, count, key, counter, noise);
}

}  // namespace hone::kernels
