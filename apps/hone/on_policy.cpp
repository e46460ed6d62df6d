#include "on_policy.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "completion_text.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/train/model_reward.h"
#include "reward_models.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kEvaluationSeed = 0x9e3779b97f4a7c15;  // held-out completions share no noise with those that are trained on

struct OwnedRewardModel {
  RewardModelFiles files;
  LoadedReward loaded;
};

// An adapter on the policy's own base in the same storage, so that one base in memory serves both.
bool shares_base(const config::RunConfig& config, const RewardModelFiles& files, const OpenedModel* policy) {
  // PiSSA takes its part out of the base.
  return policy && config.use_peft && config.init_lora_weights != config::InitLora::pissa && !files.config.adapter.empty() &&
         quantisation_name(config) == quantisation_name(files.config) && policy->source->content_hash() == files.opened.source->content_hash();
}

// All but the weights.
train::RewardModelParts parts_of(std::shared_ptr<const void> owner, const TextModel& text, const model::ModelConfig& model,
                                 const config::RunConfig& config) {
  train::RewardModelParts parts;
  parts.owner = std::move(owner);
  parts.config = &model;
  parts.tokenizer = &text.tokenizer;
  parts.chat = &text.chat;
  parts.micro_batch_tokens = config.micro_batch_tokens.value_or(1024);
  return parts;
}

std::unique_ptr<rewards::Reward> load_model_reward(const config::RunConfig& config, const std::string& folder, const train::Machine& machine,
                                                   const OpenedModel* policy, RewardModels* models) {
  config::RunConfig own = config;  // neither the policy's adapter nor its base's storage
  own.adapter.clear();
  own.load_in_4bit = false;
  own.chat_template_path.clear();
  if (!fs::exists(fs::path(folder) / "adapter_config.json") || fs::exists(fs::path(folder) / "config.json")) own.model_name_or_path.clear();
  auto owned = std::make_shared<OwnedRewardModel>(OwnedRewardModel{open_reward_model(own, folder), {}});
  if (models && shares_base(config, owned->files, policy)) {
    log_info("--reward model:{} stands on the policy's base", folder);
    // Not its files: they would stand in memory beside the policy's, which are the same.
    const auto text = std::make_shared<const RewardText>(std::move(owned->files.opened.text), owned->files.opened.source->config());
    auto late = std::make_unique<train::LateReward>(train::make_model_reward(parts_of(text, text->text, text->config, config)));
    models->shared.push_back({folder, late.get(), text});
    return late;
  }
  owned->loaded = load_reward_model(owned->files, machine, std::min(config.max_length, owned->files.opened.source->config().max_position_embeddings));
  if (policy && policy->text.tokenizer.hash() != owned->files.opened.text.tokenizer.hash())
    log_info("--reward model:{} has another tokenizer: completions are given to it as text, and tokenised anew", folder);
  train::RewardModelParts parts = parts_of(owned, owned->files.opened.text, owned->files.opened.source->config(), config);
  parts.model = owned->loaded.model.get();
  parts.adapters = set_of(owned->loaded.adapter);
  if (models && !owned->loaded.adapter) models->standing.push_back({folder, owned, &owned->files.opened, owned->loaded.model.get()});
  return train::make_model_reward(std::move(parts));
}

/// The bytes behind a spec that names a file: another file is another reward. Of a reward model they are all that counts, wherever it stands.
std::string spec_identity(const std::string& text) {
  const rewards::NamedSpec named = rewards::split_spec(text);
  if (named.spec.starts_with("model:")) return fmt::format("{}=model {}", named.name, folder_identity(named.spec.substr(6)));
  const std::string& spec = text;
  std::string identity = spec;
  for (size_t begin = 0; begin <= spec.size();) {
    const size_t end = std::min(spec.find_first_of(": ", begin), spec.size());
    const fs::path path = spec.substr(begin, end - begin);
    std::error_code error;
    if (!path.empty() && fs::is_regular_file(path, error)) identity += " " + hash_hex(read_text(path));
    begin = end + 1;
  }
  return identity;
}

}  // namespace

std::string folder_identity(const fs::path& folder) {
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file()) files.insert(entry.path());
  Hasher hasher;
  for (const fs::path& path : files) {
    const MappedFile file(path);
    hasher.add(path.filename().string());
    hasher.add(file.text());
    file.release();
  }
  return hasher.hex();
}

std::vector<train::NamedReward> load_rewards(const config::RunConfig& config, const std::vector<std::string>& specs, const train::Machine& machine,
                                             const OpenedModel* policy, RewardModels* models) {
  rewards::RewardSettings settings = reward_settings(config);
  settings.make_model_reward = [&](const std::string& folder) { return load_model_reward(config, folder, machine, policy, models); };
  std::vector<train::NamedReward> all;
  for (const std::string& text : specs) {
    rewards::NamedSpec spec = rewards::split_spec(text);
    for (const train::NamedReward& other : all)
      if (other.name == spec.name) fail("--reward: two are called {}; put another name before one of them: NAME={}", spec.name, spec.spec);
    all.push_back({spec.name, rewards::make_reward(spec.spec, settings)});
  }
  return all;
}

void place_shared_reward(const SharedReward& shared, const config::RunConfig& config, const OpenedModel& opened, model::Model& model) {
  struct Placed {
    std::shared_ptr<const RewardText> text;
    std::unique_ptr<adapters::Adapter> adapter;
  };
  const auto placed =
      std::make_shared<Placed>(Placed{shared.text, adapters::load_adapter(model, adapters::read_peft(shared.folder), *opened.source, false)});
  train::RewardModelParts parts = parts_of(placed, shared.text->text, shared.text->config, config);
  parts.model = &model;
  parts.adapters = &placed->adapter->set;
  shared.reward->place(train::make_model_reward(std::move(parts)));
}

train::SamplingSetup sampling_setup(const config::RunConfig& config, const OpenedModel& opened, std::vector<train::NamedReward>& rewards) {
  train::SamplingSetup setup;
  setup.law = {config.temperature, config.top_p, config.top_k, config.min_p};
  setup.num_generations = config.num_generations;
  setup.max_completion_length = config.max_completion_length;
  setup.seed = static_cast<uint64_t>(config.seed);
  setup.stop_ids = stop_ids(opened);
  setup.tokenizer = &opened.text.tokenizer;
  setup.rewards = &rewards;
  setup.reward_weights = config.reward_weights.empty() ? std::vector<double>(rewards.size(), 1.0) : config.reward_weights;
  setup.aggregation = config.multi_objective_aggregation;
  return setup;
}

int64_t OnPolicy::longest(const config::RunConfig& config) const {
  return std::max(prompts.longest, held_out.longest) + config.max_completion_length;
}

int64_t OnPolicy::largest_group(const config::RunConfig& config) const {
  // cut into sub-trees of max_tree_tokens, each with the prompt
  return prompts.longest + config.num_generations * config.max_completion_length +
         prompts.longest * (config.num_generations * config.max_completion_length / config.max_tree_tokens);
}

train::Json OnPolicy::identity(const config::RunConfig& config) const {
  train::Json specs = train::Json::array();
  for (const std::string& spec : config.reward) specs.push_back(spec_identity(spec));
  for (const std::string& spec : config.eval_reward) specs.push_back("eval " + spec_identity(spec));
  return {{"reward", specs},
          {"reward_weights", config.reward_weights},
          {"num_generations", config.num_generations},
          {"max_completion_length", config.max_completion_length},
          {"temperature", config.temperature},
          {"top_p", config.top_p},
          {"top_k", config.top_k},
          {"min_p", config.min_p},
          {"dynamic_sampling", config.dynamic_sampling},
          {"max_resample", config.max_resample},
          {"steps_per_generation", config.steps_per_generation},
          {"num_iterations", config.num_iterations},
          {"code_command", config.code_command},
          {"code_timeout", config.code_timeout},
          {"code_memory_mib", config.code_memory_mib}};
}

std::unique_ptr<OnPolicy> load_on_policy(const config::RunConfig& config, const OpenedModel& opened, const train::Machine& machine,
                                         const fs::path& bad_rows) {
  auto run = std::make_unique<OnPolicy>();
  run->rewards = load_rewards(config, config.reward, machine, &opened, &run->models);
  run->eval_rewards = load_rewards(config, config.eval_reward, machine, &opened, &run->models);
  const int64_t limit = config.max_length - config.max_completion_length;
  run->prompts = train::load_prompt_data(row_options(config, opened, config.data, bad_rows), limit, run->rewards);
  log_info("data: {}", train::describe(run->prompts));
  if (!config.eval_file.empty()) {
    run->held_out = train::load_prompt_data(row_options(config, opened, {config.eval_file}, bad_rows), limit,
                                            run->eval_rewards.empty() ? run->rewards : run->eval_rewards);
    log_info("held out: {}", train::describe(run->held_out));
  }
  return run;
}

train::HeldOut evaluate_held_out(const OnPolicy& run, const config::RunConfig& config, const OpenedModel& opened, model::Model& model,
                                 const ops::AdapterSet* adapters) {
  const bool second_opinion = !run.eval_rewards.empty();
  config::RunConfig own = config;
  if (second_opinion) own.reward_weights.clear();
  train::SamplingSetup setup =
      sampling_setup(own, opened, const_cast<std::vector<train::NamedReward>&>(second_opinion ? run.eval_rewards : run.rewards));
  setup.num_generations = 1;
  setup.seed ^= kEvaluationSeed;
  const std::vector<train::DrawnGroup> groups = train::sample_and_judge(model, adapters, run.held_out, setup);
  const int64_t one[] = {1};
  return {train::prompt_figures(groups, setup, one, "eval_"), train::prompt_scores(groups, setup)};
}

}  // namespace hone::app
