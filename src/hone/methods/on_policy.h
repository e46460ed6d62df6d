#pragma once
// What every on-policy method learns from: groups of completions that the policy itself sampled.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "hone/methods/method.h"

namespace hone::methods {

/// One sampled completion.
struct SampledCompletion {
  std::vector<int32_t> ids;                    // with the end token, if one was sampled
  std::vector<float> logprobs;                 // (ids) under softmax(logits / temperature), untruncated, when it was sampled: the law that is trained
  std::vector<float> sampler_logprobs;         // (ids) under the truncated law that sampled it; equal to logprobs without top_k, top_p, min_p
  bool truncated = false;                      // ended by the length limit
  bool broken = false;                         // a reward function broke on it: it is unscored, whatever the others say of it
  std::vector<std::optional<double>> rewards;  // one for each reward function; empty: that one gives this sample no score
};

/// A prompt and its completions.
struct Group {
  std::vector<int32_t> prompt;
  std::vector<SampledCompletion> completions;
};

/// A method over the groups of the current rollout: row i is group i. In this order, once for every rollout: `begin`; where reference() is not
/// null, the reference's log-probabilities of all rows are filled in; `referenced`; then for each optimizer step `update` and run_rows.
class OnPolicyMethod : public Method {
 public:
  /// Takes the rollout's groups and computes what is constant over its updates (advantages, returns, counts).
  virtual void begin(std::vector<Group> groups) = 0;
  /// After begin and after the reference's log-probabilities, if any, are there: what depends on them (a KL penalty in the reward).
  virtual void referenced() {}
  /// Before optimizer step number `index` (from 0) on this rollout. At the first one the policy is still the one that sampled.
  virtual void update(int64_t index) { (void)index; }
  /// The advantage of each completion of a row (for completions.jsonl), after referenced; NaN where it has none.
  virtual std::vector<double> advantages(int64_t row) const = 0;
  /// False: the row's backward would add exactly nothing, so the loop may leave it out of a step (its tokens stay in the counts).
  virtual bool has_gradient(int64_t row) const {
    (void)row;
    return true;
  }
  /// Figures of the rollout itself (reward, reward_std, frac_reward_zero_std, rewards/NAME/mean, ...), by TRL's keys.
  virtual std::vector<std::pair<std::string, double>> rollout_metrics() const = 0;
  /// What a checkpoint must hold beside the completions: between rollouts, or in the middle of one, of which `begin` is then called again with the
  /// same groups after `restore`. Null: nothing.
  virtual nlohmann::ordered_json state(bool between_rollouts) const {
    (void)between_rollouts;
    return nullptr;
  }
  virtual void restore(const nlohmann::ordered_json& state) { (void)state; }
};

}  // namespace hone::methods
