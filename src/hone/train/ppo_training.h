#pragma once
// What PPO adds to the loop: the value model sees every rollout once before the updates over it, and each rollout is cut into mini-batches anew
// in each of its epochs. The policy and the value model are two passes of one step (step.h).
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "hone/methods/ppo.h"
#include "hone/model/decoder.h"
#include "hone/train/rollout_source.h"

namespace hone::train {

/// Who gives values: a model, with the adapter that is its role, or without.
struct ValueRole {
  model::Model* model = nullptr;
  ops::AdapterSet* adapters = nullptr;
  int64_t micro_batch_tokens = 1024;
};

/// The policy of a run: its rollouts get their values from the value model, and its state belongs to the checkpoint.
class PpoTraining : public methods::PpoPolicy {
 public:
  PpoTraining(const std::shared_ptr<methods::PpoRollout>& rollout, const config::RunConfig& config);
  /// Before the first rollout; the value model is loaded after the method is made.
  void set_value_role(const ValueRole& role) { role_ = role; }
  void begin(std::vector<methods::Group> groups) override;
  void referenced() override;
  nlohmann::ordered_json state(bool between_rollouts) const override;
  void restore(const nlohmann::ordered_json& state) override;
  const methods::PpoValue& value() const { return value_; }

 private:
  std::shared_ptr<methods::PpoRollout> rollout_;
  methods::PpoState state_, begin_state_;  // now; when the rollout at hand began
  methods::PpoValue value_;
  ValueRole role_;
  std::vector<std::vector<float>> restored_;  // values of a rollout that a checkpoint stands in the middle of
};

/// num_ppo_epochs times over a rollout of `prompts` groups, each time in an order drawn anew, in num_mini_batches parts as equal as can be.
RolloutPlan ppo_plan(int64_t prompts, int64_t num_ppo_epochs, int64_t num_mini_batches, uint64_t seed);

/// Calls done(row, values) for each of the rows in order: the values of all their states, without gradient, with the bits of the training
/// forward.
void score_values(const ValueRole& role, const methods::PpoValue& method, std::span<const int64_t> rows,
                  const std::function<void(int64_t row, std::vector<float> values)>& done);

}  // namespace hone::train
