#include "hone/rollout/sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::rollout {
namespace {

struct Slot {
  size_t request = 0;
  uint32_t index = 0;  // which of the request's samples
  model::KvCache cache;
  Completion completion;
};

// Sets the logits outside top_k, top_p and min_p to -infinity.
void truncate(std::vector<float>& logits, const SamplingLaw& law) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); };
  std::sort(order.begin(), order.end(), before);
  size_t keep = law.top_k > 0 ? std::min<size_t>(order.size(), law.top_k) : order.size();
  std::vector<double> p(keep);
  const double inverse = 1.0 / law.temperature, top = logits[order[0]];
  double total = 0;
  for (size_t i = 0; i < keep; ++i) total += p[i] = kernels::exact_exp((logits[order[i]] - top) * inverse);
  if (law.top_p < 1.0) {
    double sum = 0;
    size_t n = 0;
    while (n < keep && sum < law.top_p * total) sum += p[n++];
    keep = std::max<size_t>(1, n);
  }
  if (law.min_p > 0.0)
    while (keep > 1 && p[keep - 1] < law.min_p * p[0]) --keep;
  for (size_t i = keep; i < order.size(); ++i) logits[order[i]] = -std::numeric_limits<float>::infinity();
}

class Decoding {
 public:
  Decoding(model::Model& model, std::span<const SampleRequest> requests, const SampleOptions& options)
      : model_(model), requests_(requests), options_(options), results_(requests.size()) {}

  std::vector<std::vector<Completion>> run() {
    for (auto& r : results_) r.resize(options_.num_generations);
    while (fill(), !slots_.empty() && (!options_.go_on || options_.go_on())) step();
    return std::move(results_);
  }

 private:
  // Starts waiting samples until the slots are full. A prompt is computed once; its cache is copied for every sample.
  void fill() {
    while (static_cast<int64_t>(slots_.size()) < kSlots && next_ < requests_.size()) {
      const SampleRequest& request = requests_[next_];
      const auto length = static_cast<int64_t>(request.prompt.size());
      check(length > 0, "sample: request {} has an empty prompt", next_);
      const int64_t capacity = length + options_.max_new_tokens;
      if (next_sample_ == 0) {
        model::ensure_positions(model_, capacity);
        prompt_ = std::make_unique<model::KvCache>(model::make_kv_cache(model_, length));
        std::vector<int64_t> ids(request.prompt.begin(), request.prompt.end());
        std::vector<model::KvCache*> caches(ids.size(), prompt_.get());
        const at::Tensor hidden = model::decoder_step(model_, options_.adapters, ids, caches);
        prompt_logits_ = ops::head_logits(hidden.slice(0, length - 1).contiguous(), model_.head(options_.adapters)).cpu();
      }
      if (options_.skip && options_.skip(next_, next_sample_)) {
        advance();
        continue;
      }
      auto slot = std::make_unique<Slot>();
      slot->request = next_;
      slot->index = next_sample_;
      slot->cache = model::copy_kv_cache(model_, *prompt_, capacity);
      advance();
      if (!accept(*slot, prompt_logits_.const_data_ptr<float>())) slots_.push_back(std::move(slot));
    }
  }

  void advance() {
    if (++next_sample_ < options_.num_generations) return;
    next_sample_ = 0;
    ++next_;
  }

  void step() {
    std::vector<int64_t> ids;
    std::vector<model::KvCache*> caches;
    for (auto& slot : slots_) {
      ids.push_back(slot->completion.ids.back());
      caches.push_back(&slot->cache);
    }
    const at::Tensor logits = ops::head_logits(model::decoder_step(model_, options_.adapters, ids, caches), model_.head(options_.adapters)).cpu();
    const int64_t vocab = logits.size(1);
    std::vector<std::unique_ptr<Slot>> open;
    for (size_t i = 0; i < slots_.size(); ++i)
      if (!accept(*slots_[i], logits.const_data_ptr<float>() + static_cast<int64_t>(i) * vocab)) open.push_back(std::move(slots_[i]));
    slots_ = std::move(open);
  }

  float tempered(const float* logits, int64_t token) const {
    const double temperature = options_.law.temperature;
    float logprob = 0, lse = 0;
    kernels::logprobs_forward(logits, model_.config.vocab_size, 1, model_.config.vocab_size, &token,
                              static_cast<float>(temperature > 0 ? 1.0 / temperature : 1.0), {&logprob, &lse, nullptr, nullptr, nullptr, nullptr});
    return logprob;
  }

  // Appends one token; true when the completion is finished (its result is then stored).
  bool accept(Slot& slot, const float* logits) {
    Completion& c = slot.completion;
    const int64_t vocab = model_.config.vocab_size;
    const int64_t token =
        choose_token(logits, vocab, options_.law, options_.seed, requests_[slot.request].row, slot.index, static_cast<uint32_t>(c.ids.size()));
    float logprob = 0, lse = 0;
    kernels::logprobs_forward(logits, vocab, 1, vocab, &token, 1.0f, {&logprob, &lse, nullptr, nullptr, nullptr, nullptr});
    if (!std::isfinite(lse))
      fail("the model gives logits that are not finite for row {}: its values overflow float32; take another checkpoint",
           requests_[slot.request].row + 1);
    c.ids.push_back(static_cast<int32_t>(token));
    c.logprobs.push_back(logprob);
    c.tempered_logprobs.push_back(tempered(logits, token));
    c.sampler_logprobs.push_back(c.tempered_logprobs.back());
    const bool stopped =
        std::find(options_.stop_ids.begin(), options_.stop_ids.end(), token) != options_.stop_ids.end() || (options_.stop && options_.stop(c.ids));
    if (stopped) c.finish = Finish::stop;
    if (!stopped && static_cast<int64_t>(c.ids.size()) < options_.max_new_tokens) return false;
    if (options_.finished) options_.finished(slot.request, slot.index, c);
    results_[slot.request][slot.index] = std::move(c);
    return true;
  }

  model::Model& model_;
  std::span<const SampleRequest> requests_;
  const SampleOptions& options_;
  std::vector<std::vector<Completion>> results_;
  std::vector<std::unique_ptr<Slot>> slots_;
  size_t next_ = 0;
  uint32_t next_sample_ = 0;
  std::unique_ptr<model::KvCache> prompt_;
  at::Tensor prompt_logits_;
};

}  // namespace

const char* finish_name(Finish finish) { return finish == Finish::stop ? "stop" : "length"; }

int32_t choose_token(const float* logits, int64_t vocab, const SamplingLaw& law, uint64_t seed, uint32_t row, uint32_t sample, uint32_t position) {
  if (law.temperature == 0.0) return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
  const uint32_t counter[3] = {row, sample, position};
  const auto inverse = static_cast<float>(1.0 / law.temperature);
  if (law.top_k <= 0 && law.top_p >= 1.0 && law.min_p <= 0.0)
    return static_cast<int32_t>(kernels::gumbel_argmax(logits, vocab, inverse, seed, counter));
  std::vector<float> kept(logits, logits + vocab);
  truncate(kept, law);
  return static_cast<int32_t>(kernels::gumbel_argmax(kept.data(), vocab, inverse, seed, counter));
}

std::vector<std::vector<Completion>> sample(model::Model& model, std::span<const SampleRequest> requests, const SampleOptions& options) {
  check(options.num_generations > 0 && options.max_new_tokens > 0, "sample: {} generations of {} tokens", options.num_generations,
        options.max_new_tokens);
  return Decoding(model, requests, options).run();
}

}  // namespace hone::rollout
