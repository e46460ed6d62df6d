// Contradictions between flags: found before anything is read or written.
#include <algorithm>
#include <cstddef>

#include "hone/base/error.h"
#include "hone/config/parse.h"
#include "hone/config/table_rows.h"

namespace hone::config {
namespace {

void check_training(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  if (config.max_steps == 0) fail("--max_steps: 0 steps train nothing; give at least 1, or -1 for as many as --num_train_epochs gives");
  if (config.learning_rate == 0 && config.on_guard != OnGuard::warn) {
    fail("--learning_rate 0 trains nothing; give a rate above 0, or --on_guard warn to run all the same");
  }
  if (config.max_steps > 0 && config.warmup_steps > config.max_steps) {
    fail("--warmup_steps {} is longer than the run (--max_steps {})", config.warmup_steps, config.max_steps);
  }
  if (config.max_tree_tokens < config.max_length) {
    fail("--max_tree_tokens {} is below --max_length {}: a row of the longest length would fit no tree", config.max_tree_tokens, config.max_length);
  }
  if (config.resume && config.output_dir.empty()) fail("--resume needs the run to go on with: add --output_dir DIR");
}

/// Flags that would change nothing are errors: a run that is not what its flags say must not start.
void check_needs(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  const RunConfig start = defaults(arguments.command);
  for (const Field& field : fields()) {
    if (!(field.commands & arguments.command) || !arguments.given.count(field.name) || applies(config, field)) continue;
    // A switch that is told to stay off says nothing wrong.
    if (std::holds_alternative<bool RunConfig::*>(field.member) && field_text(config, field) == field_text(start, field)) continue;
    if (!field.losses.empty()) {
      fail("--{} changes nothing with --loss_type {}: it belongs to {}; leave it out", field.name, fmt::join(config.loss_type, " "),
           fmt::join(field.losses, ", "));
    }
    if (field.needs == Needs::synced_reference) fail("--{} changes nothing without --sync_ref_model; add it, or leave this out", field.name);
    if (field.needs == Needs::alpha_divergence) {
      fail("--{} changes nothing without --f_divergence_type alpha_divergence; add it, or leave this out", field.name);
    }
    if (field.needs == Needs::dynamic_sampling) fail("--{} changes nothing without --dynamic_sampling; add it, or leave this out", field.name);
    if (field.needs == Needs::kl_target) fail("--{} changes nothing without --kl_target; add it, or leave this out", field.name);
    if (field.needs == Needs::held_out) fail("--{} needs held-out rows: add --eval_file FILE", field.name);
    if (field.needs == Needs::four_bit) fail("--{} changes nothing without --load_in_4bit; add it, or leave this out", field.name);
    if (field.needs == Needs::new_adapter && config.use_peft) {
      fail("--{} and --adapter exclude each other: an adapter that stands keeps its own shape and values; leave one out", field.name);
    }
    fail("--{} changes nothing without an adapter; add --use_peft (or --load_in_4bit, or --adapter DIR), or leave this out", field.name);
  }
}

void check_adapter(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  if (arguments.given.count("adapter") && config.adapter.empty()) fail("--adapter: the directory's name is empty");
  const std::vector<std::string>& targets = config.lora_target_modules;
  for (const std::string& name : targets) {
    if (name.empty()) fail("--lora_target_modules: a name is empty");
    if (name == "all-linear" && targets.size() > 1) {
      fail("--lora_target_modules: all-linear is every linear already (but the head); give it alone, or the names alone");
    }
  }
  for (const std::string& name : config.lora_modules_to_save) {
    if (name.empty()) fail("--lora_modules_to_save: a name is empty");
  }
  if (config.bnb_4bit_quant_type == QuantType::gguf && arguments.given.count("use_bnb_nested_quant")) {
    fail("--use_bnb_nested_quant changes nothing with --bnb_4bit_quant_type gguf: the file's blocks stay as they are; leave one out");
  }
  if (config.weights == Weights::int8 && config.load_in_4bit) {
    fail("--weights int8 and --load_in_4bit exclude each other: they are two ways to hold the same weights; leave one out");
  }
  if (config.init_lora_weights == InitLora::pissa && config.load_in_4bit) {
    fail("--init_lora_weights pissa takes the principal part out of the base's weights, which --load_in_4bit cannot keep; leave one out");
  }
}

void check_losses(const RunConfig& config, Command command) {
  const std::vector<std::string>& losses = config.loss_type;
  const auto chosen = [&](std::string_view name) { return std::find(losses.begin(), losses.end(), name) != losses.end(); };
  for (size_t i = 0; i < losses.size(); ++i) {
    if (std::find(losses.begin(), losses.begin() + static_cast<std::ptrdiff_t>(i), losses[i]) != losses.begin() + static_cast<std::ptrdiff_t>(i)) {
      fail("--loss_type {} is given twice; give it once, with a weight in --loss_weights", losses[i]);
    }
  }
  if (command != dpo && losses.size() > 1) fail("--loss_type: hone {} takes one loss, not {}", command_name(command), losses.size());
  if (!config.loss_weights.empty() && config.loss_weights.size() != losses.size()) {
    fail("--loss_weights has {} weights for {} losses ({}); give one for each", config.loss_weights.size(), losses.size(), fmt::join(losses, " "));
  }
  if (chosen("exo_pair") && config.label_smoothing == 0) {
    fail("--loss_type exo_pair needs --label_smoothing above 0, its epsilon: with 0 it takes the logarithm of 0; its paper advises 0.001");
  }
  if (chosen("robust") && config.label_smoothing >= 0.5) {
    fail("--label_smoothing {} is out of range for --loss_type robust: below 0.5, or the labels say nothing", config.label_smoothing);
  }
  if (chosen("alphapo") && config.alphapo_alpha == 0) {
    fail("--loss_type alphapo needs --alphapo_alpha other than 0 (its paper: 0.25); with 0 it is --loss_type simpo");
  }
  if (chosen("alphapo") && config.cpo_alpha != 0) fail("--cpo_alpha: alphapo has no loss of the chosen completions beside it; leave it out");
}

/// An f-divergence leaves a term that cancels only in a difference of chosen and rejected (as TRL says); sorted losses have no weight per pair.
void check_loss_combinations(const RunConfig& config) {
  const std::vector<std::string> differences = {"sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"};
  for (const std::string& loss : config.loss_type) {
    if (config.f_divergence_type != FDivergence::reverse_kl && std::find(differences.begin(), differences.end(), loss) == differences.end()) {
      fail("--f_divergence_type and --loss_type {} exclude each other; it goes with {}", loss, fmt::join(differences, ", "));
    }
    if (config.use_weighting && loss.starts_with("aot"))
      fail("--use_weighting and --loss_type {} exclude each other: that loss sorts the pairs", loss);
  }
}

void check_preferences(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  check_losses(config, arguments.command);
  check_loss_combinations(config);
  if (config.lora_dropout != 0) fail("--lora_dropout {}: dropout exists in hone sft only; leave it out", config.lora_dropout);
  if (arguments.command == kto && config.batch_size < 2 && config.loss_type.front() == "kto") {
    fail("--batch_size 1: kto sets each prompt against another row's completion to estimate the KL divergence; give at least 2");
  }
  if (config.desirable_weight == 0 && config.undesirable_weight == 0) fail("--desirable_weight and --undesirable_weight are both 0: nothing trains");
  if (!config.loss_weights.empty() && std::all_of(config.loss_weights.begin(), config.loss_weights.end(), [](double w) { return w == 0; })) {
    fail("--loss_weights are all 0: nothing trains");
  }
}

void check_on_policy(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  const std::string& name = command_name(arguments.command);
  if (config.reward.empty()) fail("hone {} needs something that judges: add --reward SPEC (math, exact, code, python:FILE:FUNCTION, ...)", name);
  if ((arguments.command & kGroupCommands) && config.num_generations < 2 && config.advantage_estimator != AdvantageEstimator::reinforce_plus_plus) {
    fail("--num_generations {}: a completion is measured against the others of its group; give at least 2", config.num_generations);
  }
  if (config.dynamic_sampling && config.num_generations < 2) {
    fail(
        "--dynamic_sampling replaces groups whose rewards are all the same, which a group of one always is; leave it out or raise --num_generations");
  }
  if (config.importance_sampling_clip_min && config.importance_sampling_clip_max &&
      *config.importance_sampling_clip_min > *config.importance_sampling_clip_max) {
    fail("--importance_sampling_clip_min {} is above --importance_sampling_clip_max {}: nothing would be left to train on",
         *config.importance_sampling_clip_min, *config.importance_sampling_clip_max);
  }
  if (!config.reward_weights.empty() && config.reward_weights.size() != config.reward.size()) {
    fail("--reward_weights has {} weights for {} rewards; give one for each", config.reward_weights.size(), config.reward.size());
  }
  if (config.max_completion_length >= config.max_length) {
    fail("--max_completion_length {} leaves no room for a prompt within --max_length {}; raise --max_length", config.max_completion_length,
         config.max_length);
  }
  if (config.lora_dropout != 0) fail("--lora_dropout {}: dropout exists in hone sft only; leave it out", config.lora_dropout);
  if (config.loss_type.size() > 1) fail("--loss_type: hone {} takes one loss, not {}", name, config.loss_type.size());
  if (!config.reward_clip_range.empty() && (config.reward_clip_range.size() != 2 || config.reward_clip_range[0] >= config.reward_clip_range[1])) {
    fail("--reward_clip_range takes two numbers, the lower one first");
  }
}

void check_ppo(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  if (config.use_score_norm && !config.use_score_scaling)
    fail("--use_score_norm changes nothing without --use_score_scaling; add it, or leave this out");
  if (config.kl_target && *config.kl_target == 0)
    fail("--kl_target 0: no policy that learns stays at a KL divergence of 0; give a target above 0 (nats a completion, TRL's was 6), or none");
  const int64_t completions = config.batch_size * config.num_generations;
  if (config.kl_target && config.kl_horizon < static_cast<double>(completions))
    fail("--kl_horizon {}: kl_coef would swing within one rollout of {} completions; give at least that many", config.kl_horizon, completions);
  if (config.kl_target && config.kl_coef == 0)
    fail("--kl_coef 0 with --kl_target: it is multiplied to reach the target and would stay 0; give a start above 0");
  if (config.kl_in_loss && config.kl_estimator == KlEstimator::k1)
    fail("--kl_in_loss with --kl_estimator k1: the gradient of k1 at what the policy samples is 0 in the mean; give k3");
  if (config.num_mini_batches > config.batch_size)
    fail("--num_mini_batches {} cuts a rollout of {} prompts (--batch_size) into more parts than it has", config.num_mini_batches, config.batch_size);
  if (config.whiten_rewards && completions < 8) fail("--whiten_rewards needs at least 8 completions a rollout, not {}", completions);
}

void check_eval(const RunConfig& config) {
  for (const double k : config.pass_k) {
    if (k != static_cast<double>(static_cast<int64_t>(k))) fail("--pass_k {}: give whole numbers", k);
    if (static_cast<int64_t>(k) > config.num_generations)
      fail("--pass_k {} needs at least as many completions; raise --num_generations (now {})", k, config.num_generations);
  }
}

void resolve_losses(Arguments& arguments) {
  RunConfig& config = arguments.config;
  if (config.rpo_alpha) {
    for (const char* name : {"loss_type", "loss_weights"}) {
      if (arguments.given.count(name))
        fail("--rpo_alpha and --{} exclude each other: it stands for --loss_type sigmoid sft --loss_weights 1 X", name);
    }
    config.loss_type = {"sigmoid", "sft"};
    config.loss_weights = {1, *config.rpo_alpha};
    config.rpo_alpha.reset();
  }
  const bool cpo = arguments.command == simpo && config.loss_type.front() != "simpo" && config.loss_type.front() != "alphapo";
  if (cpo && !arguments.given.count("cpo_alpha")) config.cpo_alpha = 1;
}

bool names_reward_model(const RunConfig& config) {
  return std::any_of(config.reward.begin(), config.reward.end(),
                     [](const std::string& spec) { return spec.starts_with("model:") || spec.find("=model:") != std::string::npos; });
}

}  // namespace

/// Full training: TRL 1.16's defaults of SFTConfig, RewardConfig, DPOConfig, KTOConfig, ORPOConfig and CPOConfig. Adapters: ten times that,
/// as TRL's documentation advises ("Train adapters with PEFT" of DPOTrainer: about 1e-5).
double default_learning_rate(Command command, bool adapter) {
  switch (command) {
    case sft:
      return adapter ? 2e-4 : 2e-5;
    case reward:
      return adapter ? 1e-3 : 1e-4;
    case ppo:
      return adapter ? 3e-5 : 3e-6;
    default:
      return adapter ? 1e-5 : 1e-6;
  }
}

void resolve_defaults(Arguments& arguments) {
  RunConfig& config = arguments.config;
  const Field* use_peft = find_field(arguments.command, "use_peft");
  if (!use_peft) return;
  const bool told = arguments.given.count(use_peft->name) > 0;
  const char* implied_by = config.load_in_4bit ? "load_in_4bit" : config.adapter.empty() ? "" : "adapter";
  if (*implied_by && told && !config.use_peft) fail("--use_peft false and --{} exclude each other: only an adapter is trained there", implied_by);
  if (*implied_by) config.use_peft = true;
  if (config.use_peft && !arguments.given.count("learning_rate")) config.learning_rate = default_learning_rate(arguments.command, true);
  if (arguments.command & kPreferenceCommands) resolve_losses(arguments);
}

void validate(const Arguments& arguments) {
  const RunConfig& config = arguments.config;
  const std::string& name = command_name(arguments.command);
  for (const std::string& required : {std::string("model_name_or_path"), std::string("data")}) {
    const Field* field = find_field(arguments.command, required);
    if (!field || field->name != required || arguments.command == doctor) continue;
    if (required == "model_name_or_path" && (arguments.command == grade || (arguments.command == eval && names_reward_model(config))))
      continue;  // the reward names its model
    if (required == "data" && (arguments.command & (merge | convert))) continue;
    const bool missing = required == "data" ? config.data.empty() : config.model_name_or_path.empty();
    if (missing) fail("hone {} needs {}", name, required == "data" ? "rows: add --data FILE" : "a model: add --model PATH");
  }
  for (const std::string& file : config.data) {
    if (file.empty()) fail("--data: a file name is empty");
  }
  if (arguments.command == convert && config.output.empty()) fail("hone convert needs a name for what it makes: add --output PATH");
  if (arguments.command == merge && config.adapter.empty()) fail("hone merge needs an adapter: add --adapter DIR");
  if (arguments.command == merge && config.output_dir.empty()) fail("hone merge needs a folder for the merged model: add --output_dir DIR");
  check_needs(arguments);
  check_adapter(arguments);
  if (arguments.command & kTrainingCommands) check_training(arguments);
  if (arguments.command & kPreferenceCommands) check_preferences(arguments);
  if (arguments.command & kOnPolicyCommands) check_on_policy(arguments);
  if (arguments.command == ppo) check_ppo(arguments);
  if (arguments.command == eval) check_eval(config);
  if (arguments.command == sample && !config.prompt.empty() && !config.file.empty()) fail("--prompt and --file exclude each other; give one");
}

}  // namespace hone::config
