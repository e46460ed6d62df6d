#pragma once
// Which token follows, out of the logits and nothing else: the law, its noise, and the three log-probabilities of what was chosen.
//
// A token v has the score s_v + G_v, s_v = logit_v / temperature, G_v = Gumbel(seed, row, sample, position, v); the largest score has the law
// softmax(s) (Gumbel, 1954). Only the likely tokens, s_v >= max s - kLikelySpan, take part on their own. The rest takes part as one: a bucket with
// s = log sum exp(s_v) over the rest and a G of its own key. Where it wins, the largest s_v + G_v among the rest is taken. A maximum of Gumbels is
// a Gumbel at the log-sum-exp, whatever the set, and the three sets of noise are independent: the law is exact for any span, and the noise of a
// token is the same on either side of the threshold, so that two close models draw the same token until their scores truly differ.
#include <cstdint>
#include <span>
#include <vector>

namespace hone::rollout {

struct SamplingLaw {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;        // 1: off
  int64_t top_k = 0;         // 0: off
  double min_p = 0.0;        // 0: off
  bool greedy() const { return temperature == 0.0; }
  bool truncated() const { return top_k > 0 || top_p < 1.0 || min_p > 0.0; }
};

constexpr float kLikelySpan = 8.0f;  // nats: a token outside has less than 1/2980 of the likeliest one's probability

/// What keys the noise of one draw.
struct DrawKey {
  uint32_t row = 0, sample = 0, position = 0;
};

struct Choice {
  int32_t token = -1;  // -1: the logits are not finite
  float logprob = 0;   // at temperature 1, untruncated
  float tempered = 0;  // under softmax(logits / temperature), untruncated; greedy: at temperature 1
  float sampler = 0;   // under the law that chose it: truncated and scaled to sum 1; greedy: 0
};

/// One token for each row of logits (keys.size(), V; stride V). Transformers' order of truncations: temperature, top_k, top_p, min_p; among equal
/// logits the lower ids are kept. A row's choice has the same bits whatever the other rows, threads and instruction set are.
class Chooser {
 public:
  Chooser(const SamplingLaw& law, uint64_t seed, int64_t vocab);
  void choose(const float* logits, std::span<const DrawKey> keys, Choice* out);

 private:
  Choice choose_row(const float* logits, const DrawKey& key, const float* m, const float* s, const float* m1, const float* s1) const;

  SamplingLaw law_;
  uint64_t key_;
  int64_t vocab_;
  float inverse_;
  std::vector<float> m_, s_, m1_, s1_;  // block statistics at the law's temperature and at 1
};

}  // namespace hone::rollout
