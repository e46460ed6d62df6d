// hone ppo: learning from rewards for sampled completions with a value model. With an adapter one base serves policy, reference, reward model and
// value model; without, each is a model of its own.
#include <algorithm>
#include <filesystem>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/train/ppo_training.h"
#include "on_policy.h"
#include "reward_models.h"
#include "training.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
using train::Json;

/// What must live beside the policy.
struct Roles {
  std::unique_ptr<RewardModelFiles> files;     // of a value model that stands apart
  std::unique_ptr<model::Model> own_model;     // of a value model that shares none
  std::unique_ptr<adapters::Adapter> adapter;  // of the value model; null: it is trained itself
  model::Model* model = nullptr;               // the value model, or what its adapter is on
  const OpenedModel* opened = nullptr;         // where it comes from

  int64_t saved_bytes() const { return adapter ? adapters::saved_bytes(*adapter) : model::saved_bytes(model->config, model::DType::f32); }
  void save(const fs::path& folder) const { adapter ? save_adapter_folder(folder, *opened, *adapter) : save_model_folder(folder, *opened, *model); }
};

bool is_adapter_folder(const fs::path& folder) { return fs::exists(folder / "adapter_config.json") && !fs::exists(folder / "config.json"); }

// The folder of the first reward model among the rewards; empty: there is none.
std::string first_reward_model(const config::RunConfig& config) {
  for (const std::string& text : config.reward) {
    const std::string spec = rewards::split_spec(text).spec;
    if (spec.starts_with("model:")) return spec.substr(6);
  }
  return {};
}

// The folder that the value model starts from; empty: the policy.
std::string value_folder(const config::RunConfig& config) {
  const std::string reward = first_reward_model(config);
  if (config.value_model == "policy" || (config.value_model.empty() && reward.empty())) return {};
  if (!config.value_model.empty() && config.value_model != "reward") return config.value_model;
  if (reward.empty()) fail("--value_model reward: no --reward is a reward model (model:DIR); give --value_model policy");
  return reward;
}

/// For as long as it lives the base has a new reward head and says that it is the body of a reward model: what a value adapter is made from.
class RewardBody {
 public:
  RewardBody(model::Model& model, uint64_t seed) : model_(model), config_(model.config), lm_head_(model.lm_head) {
    model::add_score_head(model, seed);
  }
  ~RewardBody() {
    model_.config = config_;
    model_.lm_head = lm_head_;
    model_.score = {};
  }
  RewardBody(const RewardBody&) = delete;
  RewardBody& operator=(const RewardBody&) = delete;

 private:
  model::Model& model_;
  model::ModelConfig config_;
  ops::Parameter lm_head_;
};

void same_tokenizer(const OpenedModel& policy, const OpenedModel& value, const std::string& folder) {
  if (policy.text.tokenizer.hash() != value.text.tokenizer.hash())
    fail("--value_model {}: its tokenizer is not the policy's, and a value belongs to every token; give --value_model policy", folder);
}

RewardModelFiles open_value_model(const config::RunConfig& config, const std::string& folder) {
  config::RunConfig own = config;
  own.adapter.clear();
  own.chat_template_path.clear();
  own.load_in_4bit = false;
  if (!is_adapter_folder(folder)) own.model_name_or_path.clear();
  return open_reward_model(own, folder, "--value_model ");
}

// A new adapter with a value head; beside a policy that goes on with --adapter it has that one's shape.
std::unique_ptr<adapters::Adapter> value_adapter_on(model::Model& model, const OpenedModel& opened, const config::RunConfig& config) {
  adapters::LoraConfig shape = lora_config(config, opened.source->path().string(), adapters::Task::seq_cls);
  if (!config.adapter.empty()) {
    const adapters::LoraConfig policy = adapters::read_peft(config.adapter).config;
    shape.r = policy.r;
    shape.lora_alpha = policy.lora_alpha;
    shape.target_modules = policy.target_modules;
    shape.use_rslora = policy.use_rslora;
    shape.use_dora = policy.use_dora;
  }
  return adapters::create_adapter(model, *opened.source, shape, static_cast<uint64_t>(config.seed));
}

// The value adapter of that folder on the policy's base.
void value_on_base(Roles& roles, const RoleInputs& in, train::TrainJob& job, const std::string& folder) {
  const RewardBody body(*job.model, 0);
  roles.adapter = adapters::load_adapter(*job.model, adapters::read_peft(folder), *in.opened.source, true);
  roles.model = job.model;
  roles.opened = &in.opened;
}

// A value model from the folder of a reward model: on the policy's base where it is an adapter of that; with adapters on the reward model itself,
// where that stands in memory already; else with a model of its own.
void value_from_folder(Roles& roles, const RoleInputs& in, train::TrainJob& job, const std::string& folder) {
  const auto& [shared, standing] = in.policy.models;
  if (std::any_of(shared.begin(), shared.end(), [&](const SharedReward& s) { return s.folder == folder; }))
    return value_on_base(roles, in, job, folder);
  const auto loaded = std::find_if(standing.begin(), standing.end(), [&](const StandingReward& s) { return s.folder == folder; });
  if (in.config.use_peft && loaded != standing.end()) {
    same_tokenizer(in.opened, *loaded->opened, folder);
    roles.model = loaded->model;
    roles.opened = loaded->opened;
    roles.adapter = value_adapter_on(*roles.model, *roles.opened, in.config);
    return;
  }
  const bool is_adapter = is_adapter_folder(folder);
  roles.files = std::make_unique<RewardModelFiles>(open_value_model(in.config, folder));
  same_tokenizer(in.opened, roles.files->opened, folder);
  if (!is_adapter) roles.files->config.load_in_4bit = in.config.load_in_4bit;
  const model::ModelSource& source = *roles.files->opened.source;
  if (is_adapter && quantisation_name(in.config) == quantisation_name(roles.files->config) &&
      source.content_hash() == in.opened.source->content_hash())
    return value_on_base(roles, in, job, folder);
  roles.own_model = load_weights(source, in.machine, roles.files->config, in.longest, /*language_head=*/false);
  roles.model = roles.own_model.get();
  roles.opened = &roles.files->opened;
  if (is_adapter)
    roles.adapter = adapters::load_adapter(*roles.model, adapters::read_peft(folder), source, true);
  else if (in.config.use_peft)
    roles.adapter = value_adapter_on(*roles.model, *roles.opened, in.config);
}

// A, B and magnitudes of an adapter of the same shape: the value model begins as the policy's body.
void take_values(adapters::Adapter& value, const adapters::Adapter& policy) {
  at::NoGradGuard no_grad;
  for (const ops::Parameter* from : policy.parameters)
    for (ops::Parameter* to : value.parameters)
      if (to->name() == from->name() && to->value.sizes() == from->value.sizes()) to->value.copy_(from->value);
  adapters::updated(value);
}

void value_from_policy(Roles& roles, const RoleInputs& in, train::TrainJob& job) {
  roles.opened = &in.opened;
  roles.model = job.model;
  if (in.config.use_peft) {
    const RewardBody body(*job.model, static_cast<uint64_t>(in.config.seed));
    roles.adapter = value_adapter_on(*job.model, in.opened, in.config);
    if (!in.config.adapter.empty()) take_values(*roles.adapter, *job.adapter);
    return;
  }
  roles.own_model = load_weights(*in.opened.source, in.machine, in.config, in.longest, /*language_head=*/false);
  roles.model = roles.own_model.get();
  model::add_score_head(*roles.model, static_cast<uint64_t>(in.config.seed));
}

// What can be wrong with the roles, as far as that shows before anything is loaded.
void check_roles(const config::RunConfig& config) {
  if (config.use_peft && config.init_lora_weights == config::InitLora::pissa)
    fail("--init_lora_weights pissa takes its part out of the base, which the other models of hone ppo stand on, too; give another start");
  const std::string folder = value_folder(config);
  if (folder.empty()) return;
  if (folder != first_reward_model(config) && !fs::exists(folder))
    fail("--value_model {}: there is no such folder; give reward, policy or the folder of a reward or value model", folder);
  if (is_adapter_folder(folder) && !config.use_peft)
    fail("--value_model {}: an adapter, but models are trained whole here; add --use_peft, merge it first (hone merge), or give --value_model policy",
         folder);
}

// The same, with the policy at hand: its files are opened, but no weights are read.
void check_value_model(const config::RunConfig& config, const OpenedModel& opened) {
  const std::string folder = value_folder(config);
  if (!folder.empty()) same_tokenizer(opened, open_value_model(config, folder).opened, folder);
}

std::shared_ptr<void> make_roles(const RoleInputs& in, train::TrainJob& job) {
  const auto roles = std::make_shared<Roles>();
  const std::string folder = value_folder(in.config);
  folder.empty() ? value_from_policy(*roles, in, job) : value_from_folder(*roles, in, job, folder);
  log_info("value model: from {}{}", folder.empty() ? "the policy" : folder,
           !roles->adapter             ? ""
           : roles->model == job.model ? ", an adapter on the policy's base"
           : roles->own_model          ? ", an adapter on a base of its own"
                                       : ", an adapter on the reward model");
  auto& ppo = dynamic_cast<train::PpoTraining&>(*in.policy.method);
  ppo.set_value_role({roles->model, roles->adapter ? &roles->adapter->set : nullptr, job.micro_batch_tokens});
  job.more_passes.push_back({roles->model, roles->adapter.get(), &ppo.value()});
  job.model_bytes += roles->saved_bytes();
  job.save_model = [policy = job.save_model, value = roles.get()](const fs::path& path) {
    policy(path);
    value->save(path.parent_path() / "value");
  };
  return roles;
}

// What of the options decides the bits of a run. Guards do not.
Json ppo_identity(const config::RunConfig& c) {
  const auto or_null = [](const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); };
  Json identity{{"kl_coef", c.kl_coef},
                {"kl_estimator", static_cast<int>(c.kl_estimator)},
                {"kl_target", or_null(c.kl_target)},
                {"kl_horizon", c.kl_horizon},
                {"kl_in_loss", c.kl_in_loss},
                {"cliprange", c.cliprange},
                {"cliprange_value", c.cliprange_value},
                {"dual_clip", or_null(c.dual_clip)},
                {"vf_coef", c.vf_coef},
                {"entropy_coef", c.entropy_coef},
                {"gamma", c.gamma},
                {"lam", c.lam},
                {"whiten_rewards", c.whiten_rewards},
                {"use_score_scaling", c.use_score_scaling},
                {"use_score_norm", c.use_score_norm},
                {"reward_clip", or_null(c.reward_clip)},
                {"missing_eos_penalty", or_null(c.missing_eos_penalty)},
                {"critic_warmup", c.critic_warmup},
                {"num_ppo_epochs", c.num_ppo_epochs},
                {"num_mini_batches", c.num_mini_batches}};
  const std::string folder = value_folder(c);
  identity["value_model"] = folder.empty() ? "policy" : folder == first_reward_model(c) ? "reward" : folder_identity(folder);
  return identity;
}

}  // namespace

Technique ppo_technique(const config::RunConfig& given) {
  check_roles(given);
  Technique technique;
  technique.unit = "prompts";
  technique.options = ppo_identity(given);
  technique.on_policy = OnPolicyTechnique{
      [](const config::RunConfig& config, std::vector<std::string> names) {
        const auto rollout = std::make_shared<methods::PpoRollout>(config, config.reward_weights, std::move(names));
        return std::make_unique<train::PpoTraining>(rollout, config);
      },
      [](const config::RunConfig& c) { return train::ppo_plan(c.batch_size, c.num_ppo_epochs, c.num_mini_batches, static_cast<uint64_t>(c.seed)); },
      check_value_model, make_roles};
  return technique;
}

int run_ppo(const Arguments& arguments) { return run_training(arguments, ppo_technique(arguments.config)); }

}  // namespace hone::app
