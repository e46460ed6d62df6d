#pragma once
// What on-policy commands and `hone eval --reward` share: rewards from their specs, prompts, the sampler's settings, and the run's source of
// rollouts.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hone/methods/on_policy.h"
#include "hone/train/late_reward.h"
#include "hone/train/loop.h"
#include "hone/train/prompt_evaluation.h"
#include "loaded_model.h"

namespace hone::app {

/// What a reward model reads text with: its own tokenizer and template.
struct RewardText {
  TextModel text;
  model::ModelConfig config;
};

/// A reward model that is an adapter on the policy's own base, before that is loaded.
struct SharedReward {
  std::string folder;
  train::LateReward* reward = nullptr;
  std::shared_ptr<const RewardText> text;
};

/// A reward model that is loaded whole, for whoever can put an adapter of its own on it.
struct StandingReward {
  std::string folder;
  std::shared_ptr<const void> owner;
  const OpenedModel* opened = nullptr;
  model::Model* model = nullptr;
};

/// Where the reward models of a run are.
struct RewardModels {
  std::vector<SharedReward> shared;
  std::vector<StandingReward> standing;
};

/// The rewards of --reward, under their names; two of one name are refused. Reward models are loaded here, but for those that are adapters on the
/// policy's base with --use_peft: they are listed in `models` (null: none is shared). `policy` is told about where a reward
/// model has another tokenizer; null: nothing is said.
std::vector<train::NamedReward> load_rewards(const config::RunConfig& config, const std::vector<std::string>& specs, const train::Machine& machine,
                                             const OpenedModel* policy, RewardModels* models = nullptr);

/// Gives a shared reward its adapter on the loaded base.
void place_shared_reward(const SharedReward& shared, const config::RunConfig& config, const OpenedModel& opened, model::Model& model);

/// What a folder's files hold, as a hash: another reward or value model under the same name is another one.
std::string folder_identity(const std::filesystem::path& folder);

/// How completions are sampled and judged; refers to `rewards` and to the opened model's tokenizer.
train::SamplingSetup sampling_setup(const config::RunConfig& config, const OpenedModel& opened, std::vector<train::NamedReward>& rewards);

/// Everything of an on-policy run but its model.
struct OnPolicy {
  std::vector<train::NamedReward> rewards, eval_rewards;  // eval_rewards: of --eval_reward
  RewardModels models;
  train::PromptData prompts, held_out;
  std::unique_ptr<methods::OnPolicyMethod> method;
  std::unique_ptr<train::RolloutSource> source;

  /// Packed tokens that a group takes at most, and tokens of the longest sequence.
  int64_t largest_group(const config::RunConfig& config) const;
  int64_t longest(const config::RunConfig& config) const;
  train::Json identity(const config::RunConfig& config) const;
};

/// Reads and checks rewards, prompts and held-out prompts.
std::unique_ptr<OnPolicy> load_on_policy(const config::RunConfig& config, const OpenedModel& opened, const train::Machine& machine,
                                         const std::filesystem::path& bad_rows);

/// One completion of each held-out prompt: eval_pass@1, eval_reward, ...
train::HeldOut evaluate_held_out(const OnPolicy& run, const config::RunConfig& config, const OpenedModel& opened, model::Model& model,
                                 const ops::AdapterSet* adapters);

}  // namespace hone::app
