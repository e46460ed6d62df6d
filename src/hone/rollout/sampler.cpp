#include "hone/rollout/sampler.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/base/memory.h"
#include "hone/rollout/decode.h"

namespace hone::rollout {

/// What a session keeps from one reply to the next.
struct KeptSequence {
  Sequence sequence;
  std::vector<int32_t> ids;  // of the tokens in it
  int64_t reused = 0;
};

namespace {

constexpr int64_t kPrefillRows = 512;  // prompt tokens in one step: full-rate products, bounded buffers

/// A request in work: its prompt is in the cache until its last sample has begun.
struct Group {
  size_t request = 0;
  Sequence prompt;
  std::vector<float> logits;      // that follow the prompt
  std::vector<uint32_t> waiting;  // samples not begun, the next one last
  int64_t prompt_blocks = 0;      // reserved until the last sample is finished
  int64_t open = 0;               // samples in work
};

struct Slot {
  Group* group = nullptr;
  uint32_t sample = 0;
  int64_t blocks = 0;  // reserved
  Sequence sequence;
  Completion completion;
};

class Sampling {
 public:
  Sampling(model::Model& model, Decoder& decoder, std::span<const SampleRequest> requests, const SampleOptions& options, int64_t slots,
           KeptSequence* kept)
      : decoder_(decoder),
        requests_(requests),
        options_(options),
        vocab_(model.config.vocab_size),
        slots_(slots),
        kept_(kept),
        chooser_(options.law, options.seed, model.config.vocab_size),
        results_(requests.size()) {}

  std::vector<std::vector<Completion>> run() {
    for (auto& r : results_) r.resize(options_.num_generations);
    while (fill(), !active_.empty() && (!options_.go_on || options_.go_on())) step();
    for (auto& slot : active_) decoder_.release(slot->sequence);
    for (auto& group : groups_) decoder_.release(group->prompt);
    return std::move(results_);
  }

 private:
  int64_t free_slots() const { return slots_ - static_cast<int64_t>(active_.size()); }
  int64_t prompt_length(const Group& group) const { return static_cast<int64_t>(requests_[group.request].prompt.size()); }

  /// Blocks of its own that a sample takes at most: beyond the whole blocks of the prompt.
  int64_t own_blocks(int64_t prompt) const { return Decoder::blocks_for(prompt + options_.max_new_tokens) - prompt / kernels::kKvBlock; }

  bool fits(int64_t blocks) const { return reserved_ == 0 || blocks + reserved_ <= budget_; }

  /// Begins samples until the slots or the memory are full.
  void fill() {
    for (;;) {
      for (auto& group : groups_) begin_samples(*group);
      close_groups();
      const auto begun = open_groups();
      if (begun.empty()) break;
      prefill(begun);
    }
    const auto order = [](const auto& a, const auto& b) { return std::pair(a->group->request, a->sample) < std::pair(b->group->request, b->sample); };
    std::sort(active_.begin(), active_.end(), order);  // rows that share a prompt stand side by side
  }

  /// The next requests whose samples find slots and memory.
  std::vector<Group*> open_groups() {
    std::vector<Group*> begun;
    int64_t slots = free_slots(), later = 0;
    for (const auto& group : groups_)
      if (!group->waiting.empty()) return begun;  // their samples come first
    while (next_ < requests_.size() && slots > 0) {
      const auto length = static_cast<int64_t>(requests_[next_].prompt.size());
      check(length > 0, "sample: request {} has an empty prompt", next_);
      const int64_t prompt = Decoder::blocks_for(length), first = own_blocks(length);
      if (!fits(later + prompt + first)) break;
      auto group = std::make_unique<Group>();
      group->request = next_++;
      for (auto s = static_cast<uint32_t>(options_.num_generations); s-- > 0;)
        if (!options_.skip || !options_.skip(group->request, s)) group->waiting.push_back(s);
      if (group->waiting.empty()) continue;
      group->prompt_blocks = prompt;
      reserved_ += prompt;
      later += first * std::min<int64_t>(slots, static_cast<int64_t>(group->waiting.size()));
      slots -= static_cast<int64_t>(group->waiting.size());
      begun.push_back(group.get());
      groups_.push_back(std::move(group));
    }
    return begun;
  }

  /// The part of a prompt that a session has in its cache already; at least the last token is computed.
  void take_kept(Group& group) {
    if (!kept_) return;
    const std::vector<int32_t>& prompt = requests_[group.request].prompt;
    kept_->reused = 0;
    if (decoder_.usable(kept_->sequence)) {
      const auto end = std::mismatch(prompt.begin(), prompt.end() - 1, kept_->ids.begin(), kept_->ids.end()).first;
      group.prompt = decoder_.fork(kept_->sequence, end - prompt.begin());
      kept_->reused = group.prompt.length;
    }
    decoder_.release(kept_->sequence);
    kept_->ids.clear();
  }

  void prefill(const std::vector<Group*>& begun) {
    std::vector<StepRow> rows;
    std::vector<int64_t> wanted;
    std::vector<Group*> ends;
    const auto flush = [&] {
      if (rows.empty()) return;
      const float* logits = decoder_.step(rows, wanted);
      for (size_t i = 0; i < ends.size(); ++i) ends[i]->logits.assign(logits + i * vocab_, logits + (i + 1) * vocab_);
      rows.clear();
      wanted.clear();
      ends.clear();
    };
    for (Group* group : begun) {
      take_kept(*group);
      const std::vector<int32_t>& prompt = requests_[group->request].prompt;
      group->prompt.capacity = static_cast<int64_t>(prompt.size()) + options_.max_new_tokens;
      for (size_t i = static_cast<size_t>(group->prompt.length); i < prompt.size(); ++i) {
        rows.push_back({&group->prompt, prompt[i]});
        if (i + 1 == prompt.size()) {
          wanted.push_back(static_cast<int64_t>(rows.size()) - 1);
          ends.push_back(group);
        }
        if (static_cast<int64_t>(rows.size()) == kPrefillRows) flush();
      }
    }
    flush();
  }

  void begin_samples(Group& group) {
    while (!group.waiting.empty() && free_slots() > 0) {
      const int64_t blocks = own_blocks(prompt_length(group));
      if (!fits(blocks) && group.open + static_cast<int64_t>(active_.size()) > 0) return;
      auto slot = std::make_unique<Slot>();
      slot->group = &group;
      slot->sample = group.waiting.back();
      slot->blocks = blocks;
      group.waiting.pop_back();
      ++group.open;
      reserved_ += blocks;
      slot->sequence = decoder_.fork(group.prompt, group.prompt.length);
      Choice choice;
      const DrawKey key = key_of(*slot);
      chooser_.choose(group.logits.data(), std::span(&key, 1), &choice);
      if (!accept(*slot, choice)) active_.push_back(std::move(slot));
    }
  }

  /// Prompts whose samples have all begun are not needed; groups whose samples are all finished give their reservation back.
  void close_groups() {
    for (auto& group : groups_)
      if (group->waiting.empty()) decoder_.release(group->prompt);
    std::erase_if(groups_, [&](const auto& group) {
      if (!group->waiting.empty() || group->open > 0) return false;
      reserved_ -= group->prompt_blocks;
      return true;
    });
  }

  DrawKey key_of(const Slot& slot) const {
    return {requests_[slot.group->request].row, slot.sample, static_cast<uint32_t>(slot.completion.ids.size())};
  }

  void step() {
    std::vector<StepRow> rows;
    std::vector<int64_t> wanted;
    std::vector<DrawKey> keys;
    for (auto& slot : active_) {
      wanted.push_back(static_cast<int64_t>(rows.size()));
      rows.push_back({&slot->sequence, slot->completion.ids.back()});
      keys.push_back(key_of(*slot));
    }
    std::vector<Choice> choices(rows.size());
    chooser_.choose(decoder_.step(rows, wanted), keys, choices.data());
    std::vector<std::unique_ptr<Slot>> open;
    for (size_t i = 0; i < active_.size(); ++i)
      if (!accept(*active_[i], choices[i])) open.push_back(std::move(active_[i]));
    active_ = std::move(open);
  }

  /// Appends one token; true when the completion is finished (its result is then stored, its cache given back).
  bool accept(Slot& slot, const Choice& choice) {
    Completion& c = slot.completion;
    const size_t request = slot.group->request;
    if (choice.token < 0)
      fail("the model gives logits that are not finite for row {}: its values overflow float32; take another checkpoint", requests_[request].row + 1);
    c.ids.push_back(choice.token);
    c.logprobs.push_back(choice.logprob);
    c.tempered_logprobs.push_back(choice.tempered);
    c.sampler_logprobs.push_back(choice.sampler);
    const bool stopped = std::find(options_.stop_ids.begin(), options_.stop_ids.end(), choice.token) != options_.stop_ids.end() ||
                         (options_.stop && options_.stop(c.ids));
    if (stopped) c.finish = Finish::stop;
    if (!stopped && static_cast<int64_t>(c.ids.size()) < options_.max_new_tokens) return false;
    if (options_.finished) options_.finished(request, slot.sample, c);
    retire(slot);
    results_[request][slot.sample] = std::move(c);
    return true;
  }

  void retire(Slot& slot) {
    --slot.group->open;
    reserved_ -= slot.blocks;
    if (kept_) {
      decoder_.release(kept_->sequence);
      kept_->ids = requests_[slot.group->request].prompt;
      kept_->ids.insert(kept_->ids.end(), slot.completion.ids.begin(), slot.completion.ids.end() - 1);  // the last token was not computed
      kept_->sequence = std::move(slot.sequence);
      slot.sequence = {};
    }
    decoder_.release(slot.sequence);
  }

  Decoder& decoder_;
  std::span<const SampleRequest> requests_;
  const SampleOptions& options_;
  int64_t vocab_, slots_;
  KeptSequence* kept_;
  Chooser chooser_;
  std::vector<std::vector<Completion>> results_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::vector<std::unique_ptr<Slot>> active_;
  size_t next_ = 0;
  int64_t reserved_ = 0, budget_ = decoder_.total_blocks();
};

void check_options(const SampleOptions& options) {
  check(options.num_generations > 0 && options.max_new_tokens > 0, "sample: {} generations of {} tokens", options.num_generations,
        options.max_new_tokens);
}

/// Blocks of the pool: what the slots can need, within the bound; one sample of the longest prompt always fits.
int64_t pool_blocks(const model::Model& model, std::span<const SampleRequest> requests, const SampleOptions& options, int64_t slots) {
  int64_t longest = 1;
  for (const SampleRequest& r : requests) longest = std::max(longest, static_cast<int64_t>(r.prompt.size()));
  const int64_t prompt = Decoder::blocks_for(longest), one = prompt + Decoder::blocks_for(longest + options.max_new_tokens) + 1;
  const double bound = options.kv_bytes > 0 ? static_cast<double>(options.kv_bytes) : available_memory() / 4;
  const auto within = static_cast<int64_t>(bound / static_cast<double>(Decoder::block_bytes(model)));
  return std::max(one, std::min(one * slots, within));
}

}  // namespace

const char* finish_name(Finish finish) { return finish == Finish::stop ? "stop" : "length"; }

int32_t choose_token(const float* logits, int64_t vocab, const SamplingLaw& law, uint64_t seed, uint32_t row, uint32_t sample, uint32_t position) {
  const DrawKey key{row, sample, position};
  Choice choice;
  Chooser(law, seed, vocab).choose(logits, std::span(&key, 1), &choice);
  return choice.token;
}

std::vector<std::vector<Completion>> sample(model::Model& model, std::span<const SampleRequest> requests, const SampleOptions& options) {
  check_options(options);
  const int64_t slots = std::min<int64_t>(options.slots > 0 ? options.slots : kMostSlots,
                                          std::max<int64_t>(1, static_cast<int64_t>(requests.size()) * options.num_generations));
  Decoder decoder(model, options.adapters, pool_blocks(model, requests, options, slots));
  return Sampling(model, decoder, requests, options, slots, nullptr).run();
}

struct Session::State {
  model::Model& model;
  const ops::AdapterSet* adapters;
  Decoder decoder;
  KeptSequence kept;
};

Session::Session(model::Model& model, const ops::AdapterSet* adapters, int64_t max_tokens)
    : state_(new State{model, adapters, Decoder(model, adapters, 2 * Decoder::blocks_for(max_tokens) + 2), {}}) {}

Session::~Session() = default;

int64_t Session::reused() const { return state_->kept.reused; }

Completion Session::reply(const SampleRequest& request, const SampleOptions& options) {
  check_options(options);
  check(options.num_generations == 1, "Session::reply: {} generations", options.num_generations);
  State& s = *state_;
  s.decoder.set_version(weight_version(s.model, s.adapters));
  return Sampling(s.model, s.decoder, std::span(&request, 1), options, 1, &s.kept).run()[0][0];
}

}  // namespace hone::rollout
