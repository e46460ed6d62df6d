#pragma once
// A reward that is placed once its model stands (a reward model that is an adapter on the policy's base).
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hone/base/error.h"
#include "hone/rewards/reward.h"

namespace hone::train {

class LateReward : public rewards::Reward {
 public:
  void place(std::unique_ptr<rewards::Reward> reward) { reward_ = std::move(reward); }
  std::vector<rewards::Judgement> judge(std::span<const rewards::Sample> samples) override {
    check(reward_ != nullptr, "a reward model on the policy's base before the base is loaded");
    return reward_->judge(samples);
  }

 private:
  std::unique_ptr<rewards::Reward> reward_;
};

}  // namespace hone::train
