#pragma once
// Sampling with a KV cache from the trainer's own tensors: what is sampled has the bits of the training forward. The noise of a token is
// keyed by (seed, row, sample, position, token), so completions do not depend on which others are decoded beside them.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hone/model/decoder.h"
#include "hone/rollout/law.h"

namespace hone::rollout {

struct SampleRequest {
  std::vector<int32_t> prompt;  // at least one token
  uint32_t row = 0;             // keys the noise: the row's index in `hone sample`, the draw's number over the whole run in training
};

enum class Finish { stop, length };
const char* finish_name(Finish finish);

struct Completion {
  std::vector<int32_t> ids;     // with the end token, if one was sampled
  std::vector<float> logprobs;  // at temperature 1, untruncated: what a forward over prompt + completion gives, to the bit
  std::vector<float>
      tempered_logprobs;  // under softmax(logits / temperature), untruncated: what is trained; the training forward's bits. Greedy: logprobs
  std::vector<float> sampler_logprobs;  // under the truncated law that sampled it (greedy: 0)
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
  int64_t slots = 0;     // sequences decoded together at most; 0: kMostSlots. Neither bound changes a bit of the result.
  int64_t kv_bytes = 0;  // keys and values at most (one sample always fits); 0: a quarter of the memory that is free
};
constexpr int64_t kMostSlots = 64;

/// num_generations completions for each request, in order. Sequences are decoded together, a finished one's place is taken at once; the prompt is
/// computed once and its keys and values are shared by its samples. All memory is given back before it returns.
std::vector<std::vector<Completion>> sample(model::Model& model, std::span<const SampleRequest> requests, const SampleOptions& options);

/// A sampler that keeps the keys and values of the last completion, so that a conversation's next turn computes only what is new. What it keeps
/// belongs to the weights' values: where one has changed, it is computed anew. The model and the adapters must outlive it.
class Session {
 public:
  Session(model::Model& model, const ops::AdapterSet* adapters, int64_t max_tokens);
  ~Session();
  /// As rollout::sample, of one sample of one request; options.adapters, slots and kv_bytes are ignored.
  Completion reply(const SampleRequest& request, const SampleOptions& options);
  /// Tokens of the last prompt that were not computed again.
  int64_t reused() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A hash of every value that a forward reads. Equal versions: the same bits come out.
uint64_t weight_version(model::Model& model, const ops::AdapterSet* adapters);

/// The next token under the law for logits (V); see law.h.
int32_t choose_token(const float* logits, int64_t vocab, const SamplingLaw& law, uint64_t seed, uint32_t row, uint32_t sample, uint32_t position);

}  // namespace hone::rollout
