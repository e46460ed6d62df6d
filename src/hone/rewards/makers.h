#pragma once
// The verifiers by spec. Each takes what stands behind the spec's colon and throws a UserError that names what is wrong with it.
#include <memory>
#include <string>

#include "hone/rewards/reward.h"

namespace hone::rewards {

using Maker = std::unique_ptr<Reward> (*)(const std::string& argument, const RewardSettings& settings);

std::unique_ptr<Reward> make_math(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_ifeval(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_json(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_length(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_repetition(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_exact(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_regex(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_format(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_code(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_python(const std::string& argument, const RewardSettings& settings);
std::unique_ptr<Reward> make_program(const std::string& argument, const RewardSettings& settings);

/// The row's gold answer as text: a string, or a number or truth value as JSON writes it; empty (no value) where there is none.
std::optional<std::string> gold_answer(const nlohmann::json& row);
/// What check_row says of a row without a gold answer.
std::string missing_answer(const nlohmann::json& row);

/// Judges every sample on the thread pool with a function that looks at one alone.
std::vector<Judgement> judge_each(std::span<const Sample> samples, const std::function<Judgement(const Sample&)>& one);

}  // namespace hone::rewards
