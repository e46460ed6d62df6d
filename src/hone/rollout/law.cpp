#include "hone/rollout/law.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hone/base/error.h"
#include "hone/base/rng.h"
#include "hone/base/threads.h"
#include "hone/kernels/decoding.h"
#include "hone/kernels/kernels.h"

namespace hone::rollout {
namespace {

constexpr int32_t kBucket = -1;  // the id that keys the bucket's noise: no token has it

/// One row at the law's temperature.
struct Scaled {
  const float* logits;
  int64_t vocab;
  float inverse;
  const float *m, *s;
  kernels::SoftmaxRow row;
  float at(int32_t id) const { return logits[id] * inverse; }
};

struct Noise {
  uint64_t key;
  uint32_t counter[3];
  std::vector<float> of(std::span<const int32_t> ids) const {
    std::vector<float> noise(ids.size());
    kernels::gumbel_of(ids.data(), static_cast<int64_t>(ids.size()), key, counter, noise.data());
    return noise;
  }
};

struct Winner {
  float score = -std::numeric_limits<float>::infinity();
  int32_t id = kBucket;
};

/// The largest score among the ids; the lowest id wins ties.
Winner best_of(const Scaled& x, const Noise& noise, std::span<const int32_t> ids) {
  const std::vector<float> g = noise.of(ids);
  Winner best;
  for (size_t i = 0; i < ids.size(); ++i) {
    const float score = x.at(ids[i]) + g[i];
    if (score > best.score || (score == best.score && ids[i] < best.id)) best = {score, ids[i]};
  }
  return best;
}

/// Whether the bucket, which holds `rest` times the likeliest token's probability, beats the best likely token.
bool bucket_wins(const Scaled& x, const Noise& noise, double rest, const Winner& best) {
  if (!(rest > 0)) return false;
  return x.row.largest + static_cast<float>(kernels::exact_log(rest)) + noise.of(std::span(&kBucket, 1))[0] > best.score;
}

std::vector<int32_t> tokens_above(const Scaled& x, float threshold, float* rest) {
  thread_local std::vector<int32_t> buffer;  // kept: a vocabulary's worth would be mapped and unmapped for every token
  buffer.resize(x.vocab);
  const int64_t count = kernels::likely_tokens(x.logits, x.vocab, x.inverse, threshold, x.m, x.s, buffer.data(), rest);
  return {buffer.begin(), buffer.begin() + count};
}

int32_t untruncated(const Scaled& x, const Noise& noise) {
  float rest = 0;
  const std::vector<int32_t> likely = tokens_above(x, x.row.largest - kLikelySpan, &rest);
  const Winner best = best_of(x, noise, likely);
  if (!bucket_wins(x, noise, rest, best)) return best.id;
  std::vector<float> others(x.logits, x.logits + x.vocab);
  for (const int32_t id : likely) others[id] = -std::numeric_limits<float>::infinity();
  return static_cast<int32_t>(kernels::gumbel_argmax(others.data(), x.vocab, x.inverse, noise.key, noise.counter));
}

/// The kept tokens, likeliest first, and their probabilities relative to the likeliest.
struct Kept {
  std::vector<int32_t> ids;
  std::vector<double> p;
};

/// Applies top_k, top_p and min_p to the likeliest tokens `kept` (`all`: they are the whole vocabulary). False where they do not decide it.
bool truncate(const Scaled& x, const SamplingLaw& law, bool all, Kept& kept) {
  const size_t limit = law.top_k > 0 ? static_cast<size_t>(std::min(law.top_k, x.vocab)) : static_cast<size_t>(x.vocab);
  size_t keep = std::min(limit, kept.ids.size());
  const bool whole = all || keep == limit;
  kept.p.resize(keep);
  double sum = 0;
  for (size_t i = 0; i < keep; ++i)
    sum += kept.p[i] = kernels::exact_exp(static_cast<double>(x.at(kept.ids[i])) - static_cast<double>(x.row.largest));
  bool decided = whole;
  if (law.top_p < 1.0) {
    if (law.top_k > 0 && !whole) return false;
    const double wanted = law.top_p * (law.top_k > 0 ? sum : static_cast<double>(x.row.sum));
    double mass = 0;
    size_t n = 0;
    while (n < keep && mass < wanted) mass += kept.p[n++];
    decided = whole || mass >= wanted;
    keep = std::max<size_t>(1, n);
  }
  if (law.min_p > 0.0) {
    const size_t before = keep;
    while (keep > 1 && kept.p[keep - 1] < law.min_p * kept.p[0]) --keep;
    decided |= keep < before;
  }
  kept.ids.resize(keep);
  kept.p.resize(keep);
  return decided;
}

Kept kept_tokens(const Scaled& x, const SamplingLaw& law) {
  // Logits of a float32 model differ by less than 2^8: after a few doublings the list is the whole vocabulary.
  for (float span = kLikelySpan;; span *= 4) {
    float rest = 0;
    const bool everything = span > 512;
    Kept kept;
    kept.ids = tokens_above(x, everything ? std::numeric_limits<float>::lowest() : x.row.largest - span, &rest);
    const auto before = [&](int32_t a, int32_t b) { return x.logits[a] > x.logits[b] || (x.logits[a] == x.logits[b] && a < b); };
    std::sort(kept.ids.begin(), kept.ids.end(), before);
    if (truncate(x, law, everything || static_cast<int64_t>(kept.ids.size()) == x.vocab, kept)) return kept;
  }
}

int32_t truncated(const Scaled& x, const SamplingLaw& law, const Noise& noise, float* logprob) {
  const Kept kept = kept_tokens(x, law);
  size_t likely = 0;
  while (likely < kept.ids.size() && x.at(kept.ids[likely]) >= x.row.largest - kLikelySpan) ++likely;
  double total = 0, rest = 0;
  for (size_t i = 0; i < kept.p.size(); ++i) {
    total += kept.p[i];
    if (i >= likely) rest += kept.p[i];
  }
  const std::span<const int32_t> ids(kept.ids);
  Winner best = best_of(x, noise, ids.first(likely));
  if (bucket_wins(x, noise, rest, best)) best = best_of(x, noise, ids.subspan(likely));
  *logprob = static_cast<float>(static_cast<double>(x.at(best.id)) - static_cast<double>(x.row.largest) - kernels::exact_log(total));
  return best.id;
}

}  // namespace

Chooser::Chooser(const SamplingLaw& law, uint64_t seed, int64_t vocab)
    : law_(law),
      key_(seed ^ static_cast<uint64_t>(Purpose::sample) << 60),
      vocab_(vocab),
      inverse_(law.greedy() ? 1.0f : static_cast<float>(1.0 / law.temperature)) {
  check(vocab > 0 && law.temperature >= 0 && law.top_p > 0 && law.top_k >= 0 && law.min_p >= 0,
        "sampling law: temperature {} top_p {} top_k {} min_p {}", law.temperature, law.top_p, law.top_k, law.min_p);
}

Choice Chooser::choose_row(const float* logits, const DrawKey& key, const float* m, const float* s, const float* m1, const float* s1) const {
  const Scaled x{logits, vocab_, inverse_, m, s, kernels::softmax_row(m, s, vocab_)};
  const double lse = inverse_ == 1.0f ? x.row.lse : kernels::softmax_row(m1, s1, vocab_).lse;
  Choice c;
  if (!std::isfinite(x.row.lse) || !std::isfinite(lse)) return c;
  const Noise noise{key_, {key.row, key.sample, key.position}};
  if (law_.greedy()) {
    float rest = 0;
    c.token = tokens_above(x, x.row.largest, &rest).front();
  } else {
    c.token = law_.truncated() ? truncated(x, law_, noise, &c.sampler) : untruncated(x, noise);
  }
  c.logprob = static_cast<float>(static_cast<double>(logits[c.token]) - lse);
  c.tempered = static_cast<float>(static_cast<double>(x.at(c.token)) - x.row.lse);
  if (!law_.greedy() && !law_.truncated()) c.sampler = c.tempered;
  return c;
}

void Chooser::choose(const float* logits, std::span<const DrawKey> keys, Choice* out) {
  const auto rows = static_cast<int64_t>(keys.size());
  const int64_t blocks = kernels::soft_blocks(vocab_);
  const auto statistics = [&](float inverse, std::vector<float>& m, std::vector<float>& s) {
    m.resize(rows * blocks);
    s.resize(rows * blocks);
    kernels::softmax_blocks(logits, vocab_, rows, vocab_, inverse, m.data(), s.data());
  };
  statistics(inverse_, m_, s_);
  if (inverse_ != 1.0f) statistics(1.0f, m1_, s1_);
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      out[r] =
          choose_row(logits + r * vocab_, keys[r], m_.data() + r * blocks, s_.data() + r * blocks, m1_.data() + r * blocks, s1_.data() + r * blocks);
  });
}

}  // namespace hone::rollout
