#pragma once
// Sampling with a KV cache from the trainer's own tensors: what is sampled has the bits of the training forward. The noise of a token is
// keyed by (seed, row, sample, position, token), so completions do not depend on which others are decoded beside them.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "hone/model/decoder.h"

namespace hone::rollout {

struct SamplingLaw {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;        // 1: off
  int64_t top_k = 0;         // 0: off
  double min_p = 0.0;        // 0: off
};

struct SampleRequest {
  std::vector<int32_t> prompt;  // at least one token
  uint32_t row = 0;             // keys the noise: the row's index in `hone sample`, the draw's number over the whole run in training
};

enum class Finish { stop, length };
const char* finish_name(Finish finish);

struct Completion {
  std::vector<int32_t> ids;              // with the end token, if one was sampled
  std::vector<float> logprobs;           // at temperature 1, untruncated: what a forward over prompt + completion gives, to the bit
  std::vector<float> tempered_logprobs;  // under softmax(logits / temperature), untruncated: what is trained; the training forward's bits
  std::vector<float> sampler_logprobs;   // under the truncated law that sampled it (greedy: 0)
  Finish finish = Finish::length;
};

struct SampleOptions {
  SamplingLaw law;
  int64_t num_generations = 1;
  int64_t max_new_tokens = 256;
  uint64_t seed = 42;
  std::vector<int32_t> stop_ids;
  const ops::AdapterSet* adapters = nullptr;  // null: the base model alone
  /// Asked after every token with the ids so far: true ends the completion (stop strings). May be empty.
  std::function<bool(std::span<const int32_t> ids)> stop;
  /// Asked before a sample is begun: true leaves it out (a journal has it already; its place in the result stays empty). May be empty.
  std::function<bool(size_t request, uint32_t sample)> skip;
  /// Told of every completion as soon as it is finished, in no particular order. May be empty.
  std::function<void(size_t request, uint32_t sample, const Completion& completion)> finished;
  /// Asked between decoding steps: false ends the sampling (what is not finished is lost). May be empty.
  std::function<bool()> go_on;
};

/// num_generations completions for each request, in order. Sequences are decoded together, at most kSlots at a time, a finished one's
/// place is taken at once; the prompt is computed once for its samples.
std::vector<std::vector<Completion>> sample(model::Model& model, std::span<const SampleRequest> requests, const SampleOptions& options);
constexpr int64_t kSlots = 16;

/// The next token under the law for logits (V): the truncations of transformers (temperature, then top_k, top_p, min_p; ties keep the lower
/// id), then Gumbel-max.
int32_t choose_token(const float* logits, int64_t vocab, const SamplingLaw& law, uint64_t seed, uint32_t row, uint32_t sample, uint32_t position);

}  // namespace hone::rollout
