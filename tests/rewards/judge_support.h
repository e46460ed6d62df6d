#pragma once
// One completion through one reward, as text that a test can compare.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <string>

#include "hone/base/error.h"
#include "hone/rewards/reward.h"

namespace hone::rewards {

inline Judgement judgement(const std::string& spec, const nlohmann::json& row, const std::string& completion, std::span<const int32_t> ids = {}) {
  const auto reward = make_reward(spec, {});
  const Sample sample{&row, completion, ids, false};
  return reward->judge({&sample, 1}).at(0);
}

/// "right 1", "wrong 0", "gold-unparsed -" (unscored).
inline std::string verdict(const std::string& spec, const nlohmann::json& row, const std::string& completion, std::span<const int32_t> ids = {}) {
  const Judgement judged = judgement(spec, row, completion, ids);
  return fmt::format("{} {}", verdict_name(judged.verdict), judged.reward ? fmt::format("{}", *judged.reward) : "-");
}

/// What check_row says.
inline std::string row_fault(const std::string& spec, const nlohmann::json& row) { return make_reward(spec, {})->check_row(row); }

/// The message with which a spec is refused.
inline std::string refusal(const std::string& spec) {
  try {
    make_reward(spec, {});
  } catch (const UserError& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace hone::rewards
