#pragma once
// A reward that is placed once its model stands (a reward model that is an adapter on the policy's base).
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hone/rewards/reward.h"

namespace hone::train {

class LateReward : public rewards::Reward {
 public:
  /// `checks` looks at rows until then.
  explicit LateReward(std::unique_ptr<rewards::Reward> checks) : reward_(std::move(checks)) {}
  void place(std::unique_ptr<rewards::Reward> reward) { reward_ = std::move(reward); }
  std::string check_row(const nlohmann::json& row) const override { return reward_->check_row(row); }
  std::vector<rewards::Judgement> judge(std::span<const rewards::Sample> samples) override { return reward_->judge(samples); }

 private:
  std::unique_ptr<rewards::Reward> reward_;
};

}  // namespace hone::train
