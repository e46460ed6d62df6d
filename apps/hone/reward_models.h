#pragma once
// Reward models of the commands: how a SPEC names one, how it is opened, loaded and trained on.
#include <memory>
#include <string>
#include <vector>

#include "hone/adapters/lora.h"
#include "hone/rewards/reward.h"
#include "loaded_model.h"

namespace hone::app {

/// What the verifiers of a command's SPECs may need; make_model_reward is left empty.
rewards::RewardSettings reward_settings(const config::RunConfig& config);

/// The DIR of the one SPEC model:DIR (a NAME= before it is allowed). UserError for none, several, and other specs.
std::string reward_folder(const std::vector<std::string>& specs);

/// A reward model that is ready to score.
struct RewardModelFiles {
  OpenedModel opened;        // the base's, where it is an adapter
  config::RunConfig config;  // model_name_or_path and adapter as resolved
};
struct LoadedReward {
  std::unique_ptr<model::Model> model;
  std::unique_ptr<adapters::Adapter> adapter;
};

/// model:DIR where DIR is a reward model (config.json), perhaps with --adapter on top, a base for the reward adapter of --adapter, or a reward
/// adapter itself (adapter_config.json), whose base is --model, else the one that it names. UserError for anything that gives no rewards.
/// `named`: what the user wrote before the folder, for messages.
RewardModelFiles open_reward_model(const config::RunConfig& config, const std::string& folder, const std::string& named = "--reward model:");
LoadedReward load_reward_model(const RewardModelFiles& files, const train::Machine& machine, int64_t positions);

/// For training: what load_weights is to a language model. Opened with Head::any; a source without a reward head gets a new one from the seed.
std::unique_ptr<model::Model> load_reward_weights(const OpenedModel& opened, const train::Machine& machine, const config::RunConfig& config,
                                                  int64_t positions);

/// The padding token of a saved reward model: the tokenizer's own where it neither ends a turn nor occurs in a rendered conversation, else the
/// unknown token, else the first special token for which that holds; -1 where there is none.
int32_t reward_pad_id(const TextModel& text, const model::ModelConfig& config);

}  // namespace hone::app
