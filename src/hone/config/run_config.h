#pragma once
// The typed configuration of every command. Names are TRL's wherever TRL has one; a default not from TRL 1.16 says so. Every member has
// exactly one row in the field table (fields.cpp), which drives flags, YAML, --help and docs/options.md.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace hone::config {

enum class Schedule { constant, linear, cosine };  // each after warmup_steps of linear warm-up
enum class Optimizer { adamw, adamw_8bit };
enum class Overlong { drop, cut, error };
enum class Device { automatic, cpu, cuda };
enum class Dtype { automatic, float32, bfloat16 };
enum class IsaChoice { automatic, avx2, avx512 };
enum class KernelChoice { automatic, reference };
enum class OnGuard { stop, warn };
enum class Format { text, json, jsonl };
enum class InitLora { standard, gaussian, pissa };  // as adapters::InitLora
enum class QuantType { nf4, fp4, gguf };            // gguf: the blocks that the file holds
enum class Weights { float32, int8 };
enum class GgufForm { automatic, f16, bf16, q8_0, f32 };
enum class BestMetric { eval_loss, eval_mean_token_accuracy, eval_rewards_accuracies, eval_accuracy, eval_reward, eval_pass_at_1 };

/// The key of metrics.jsonl.
constexpr const char* metric_key(BestMetric metric) {
  constexpr const char* keys[] = {"eval_loss", "eval_mean_token_accuracy", "eval_rewards/accuracies", "eval_accuracy", "eval_reward", "eval_pass@1"};
  return keys[static_cast<int>(metric)];
}

struct ModelOptions {
  std::string model_name_or_path;
  std::string chat_template_path;  // empty: the model's own template
};

struct MachineOptions {
  Device device = Device::automatic;
  Dtype dtype = Dtype::automatic;
  std::optional<int64_t> threads;  // empty: every usable processor
  IsaChoice isa = IsaChoice::automatic;
  KernelChoice kernels = KernelChoice::automatic;
};

struct DataOptions {
  std::vector<std::string> data;
  std::string eval_file;
  int64_t max_length = 1024;
  Overlong overlong = Overlong::drop;  // ours: TRL cuts
  bool assistant_only_loss = true;     // ours: TRL trains on every token of a conversation
  bool completion_only_loss = true;
  bool shuffle_dataset = true;  // ours, as transformers' sampler does
};

struct OptimizerOptions {
  Optimizer optim = Optimizer::adamw;
  double learning_rate = 2e-5;  // SFTConfig; each command has its own, higher where an adapter is trained (default_learning_rate)
  Schedule lr_scheduler_type = Schedule::linear;
  int64_t warmup_steps = 0;
  double weight_decay = 0.0;   // never on biases and norms
  double max_grad_norm = 1.0;  // 0: no clipping
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
};

/// An adapter to train or to apply, and a base held in 4 bits. Names are PEFT's and TRL's.
struct PeftOptions {
  bool use_peft = false;  // where training: also true once resolved with load_in_4bit or adapter
  std::string adapter;    // a PEFT directory: training goes on with it; everything else applies it
  int64_t lora_r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0;                                     // ours: TRL 0.05
  std::vector<std::string> lora_target_modules{"all-linear"};  // ours: TRL leaves it to PEFT
  std::vector<std::string> lora_modules_to_save;
  bool use_rslora = false;
  bool use_dora = false;
  InitLora init_lora_weights = InitLora::standard;
  double loraplus_lr_ratio = 0;  // B's learning rate over A's; 0 and 1: the same
  bool load_in_4bit = false;
  QuantType bnb_4bit_quant_type = QuantType::nf4;
  bool use_bnb_nested_quant = true;    // ours: TRL false
  Weights weights = Weights::float32;  // of the blocks' linears where nothing is trained
};

struct LoopOptions {
  std::string output_dir;          // empty: runs/COMMAND-001 and so on
  std::optional<double> max_time;  // seconds
  int64_t max_steps = -1;          // -1: as many as num_train_epochs gives
  double num_train_epochs = 3.0;
  int64_t batch_size = 8;                     // rows per optimizer step
  std::optional<int64_t> micro_batch_tokens;  // empty: from the memory at hand; never changes a bit of the result
  int64_t max_tree_tokens = 4096;
  std::optional<bool> gradient_checkpointing;  // empty: when the memory arithmetic says so
  OnGuard on_guard = OnGuard::stop;
  int64_t logging_steps = 10;
  std::optional<int64_t> eval_steps;  // empty: at the end of every epoch
  int64_t save_steps = 500;           // and at the end; 0: none, only model/
  std::optional<int64_t> save_total_limit;
  bool load_best_model_at_end = false;
  BestMetric metric_for_best_model = BestMetric::eval_loss;
  bool resume = false;
};

/// What the JSONL filters (tokenize, inspect, score, sample) and the printing of results need.
struct FilterOptions {
  std::string file;    // empty: standard input
  std::string output;  // empty: standard output
  Format format = Format::text;
  int64_t rows = 3;         // inspect: rows shown token by token
  bool no_special = false;  // tokenize: special-token strings in a text are plain text
  bool add_bos = false;     // tokenize
};

struct SampleOptions {
  std::vector<std::string> prompt;  // prompts on the command line, instead of a file
  int64_t num_generations = 1;
  int64_t max_new_tokens = 256;
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;
  int64_t top_k = 0;  // 0: off
  double min_p = 0.0;
  std::vector<std::string> stop;
};

/// Another form of a model, and how far it may be from its source.
struct ConvertOptions {
  GgufForm gguf_type = GgufForm::automatic;  // bf16 for a model stored in it, else f16
  double max_dlogp = 5e-3;                   // nats, of any token; where none is given, a form that rounds has a bound of its own
};

enum class FDivergence { reverse_kl, forward_kl, js_divergence, alpha_divergence };

/// Learning from pairs, and from completions labelled good or bad (dpo, kto, orpo, simpo, reward). TRL 1.16's names and defaults.
struct PreferenceOptions {
  std::vector<std::string> loss_type;  // dpo: sigmoid; kto: kto; simpo: simpo
  std::vector<double> loss_weights;    // one for each loss_type; empty: all 1
  std::optional<double> rpo_alpha;     // of TRL before 1.0: loss_type sigmoid sft with loss_weights 1 rpo_alpha; empty once resolved
  double beta = 0.1;
  double label_smoothing = 0.0;
  FDivergence f_divergence_type = FDivergence::reverse_kl;
  double f_alpha_divergence_coef = 0.5;
  std::optional<double> ld_alpha;  // weight of the tokens behind the shorter completion's length (LD-DPO); empty: 1
  bool use_weighting = false;      // WPO
  double discopop_tau = 0.05;
  bool sync_ref_model = false;  // TR-DPO
  double ref_model_mixup_alpha = 0.6;
  int64_t ref_model_sync_steps = 512;
  double desirable_weight = 1.0;            // kto
  double undesirable_weight = 1.0;          // kto
  double cpo_alpha = 0.0;                   // simpo; ours: 0 for simpo and alphapo (SimPO itself); as CPOConfig 1 for the others
  double simpo_gamma = 0.5;                 // simpo
  double alphapo_alpha = 0.0;               // simpo; loss_type alphapo needs one other than 0
  double center_rewards_coefficient = 0.0;  // reward
  double max_chosen_drop = 2.0;             // guard: nats a token that the mean chosen log-probability may fall below the reference's; 0: off. Ours
};

enum class ImportanceLevel { token, sequence };
enum class ImportanceMode { token_truncate, token_mask, sequence_truncate, sequence_mask };
enum class ScaleRewards { group, batch, none };
enum class RewardAggregation { sum_then_normalize, normalize_then_sum };
enum class AdvantageEstimator { group, rloo, reinforce_plus_plus };

/// Learning from groups of sampled completions (grpo, rloo). TRL 1.16's names and defaults; loss_type (grpo: dapo), beta (grpo: 0, rloo: 0.05)
/// and sync_ref_model stand in PreferenceOptions, num_generations (grpo: 8, rloo: 2) and the sampling law in SampleOptions.
struct OnPolicyOptions {
  int64_t max_completion_length = 512;
  int64_t num_iterations = 1;
  int64_t steps_per_generation = 1;  // optimizer steps that share a rollout
  double epsilon = 0.2;
  std::optional<double> epsilon_high;  // empty: epsilon
  std::optional<double> delta;         // upper bound of the unclipped ratio; empty: none
  ImportanceLevel importance_sampling_level = ImportanceLevel::token;
  ScaleRewards scale_rewards = ScaleRewards::group;
  std::vector<double> reward_weights;  // one for each reward; empty: all 1
  RewardAggregation multi_objective_aggregation = RewardAggregation::sum_then_normalize;
  AdvantageEstimator advantage_estimator = AdvantageEstimator::group;  // ours
  bool mask_truncated_completions = false;
  bool use_bias_correction_kl = true;
  double entropy_coef = 0.0;
  double top_entropy_quantile = 1.0;
  double sapo_temperature_neg = 1.05;
  double sapo_temperature_pos = 1.0;
  double vespo_k_pos = 2.0;
  double vespo_lambda_pos = 3.0;
  double vespo_k_neg = 3.0;
  double vespo_lambda_neg = 2.0;
  // Correction by the law that is trained over the truncated one that sampled (vllm_importance_sampling_* in TRL). Both empty: off; ours
  ImportanceMode importance_sampling_mode = ImportanceMode::token_truncate;  // ours: TRL sequence_mask
  std::optional<double> importance_sampling_clip_max, importance_sampling_clip_min;
  bool dynamic_sampling = false;          // ours: groups without spread are replaced by fresh ones
  int64_t max_resample = 3;               // ours: at most this many rounds of fresh groups a rollout
  bool skip_zero_advantage = true;        // ours
  bool normalize_advantages = false;      // rloo
  std::vector<double> reward_clip_range;  // rloo: two numbers; empty: none
};

enum class KlEstimator { automatic, k1, k3 };

/// Proximal policy optimisation. Names and defaults are those of TRL 1.12's experimental PPOConfig, which 1.16 has no more; use_score_scaling,
/// use_score_norm and reward_clip (score_clip), kl_target (target) and kl_horizon (horizon) those of TRL before 0.12.
struct PpoOptions {
  std::string value_model;  // reward, policy or a folder; empty: reward where there is a reward model, else policy
  double kl_coef = 0.05;
  KlEstimator kl_estimator = KlEstimator::automatic;  // k1, in the loss k3
  std::optional<double> kl_target;                    // nats a completion; empty: kl_coef is fixed
  double kl_horizon = 10000;                          // completions
  bool kl_in_loss = false;                            // ours
  double cliprange = 0.2;
  double cliprange_value = 0.2;
  std::optional<double> dual_clip;  // ours; verl: 3
  double vf_coef = 0.1;
  double gamma = 1.0;
  double lam = 0.95;
  bool whiten_rewards = false;
  bool use_score_scaling = false;
  bool use_score_norm = false;
  std::optional<double> reward_clip;
  std::optional<double> missing_eos_penalty;
  int64_t critic_warmup = 0;  // verl's; rollouts
  int64_t num_ppo_epochs = 4;
  int64_t num_mini_batches = 1;
};

/// What judges completions.
struct RewardOptions {
  std::vector<std::string> reward;       // specs of cli.md, each perhaps with NAME= before it
  std::vector<std::string> eval_reward;  // on-policy methods: of the held-out prompts; empty: `reward`. Ours
  bool allow_unsandboxed = false;
  std::string code_command = "python3 {file}";
  double code_timeout = 10;  // seconds of processor time
  int64_t code_memory_mib = 512;
  double reward_timeout = 30;     // seconds of an external program's answer
  std::vector<double> pass_k{1};  // eval: the k of pass@k
};

/// Guards of on-policy runs. Ours.
struct RolloutGuardOptions {
  double max_kl = 1.0;                // nats a token, median of ten steps; 0: off
  double max_sampling_gap = 0.01;     // nats a token between sampler and trainer, mean of a step; 0: off
  double max_length_drift = 5.0;      // times the mean length at the start, and 64 tokens; median of ten rollouts; 0: off
  double max_repetition_drift = 0.5;  // share of repeated runs of four tokens above that at the start; median of ten rollouts; 0: off
  double parting_level = 0.01;        // chance that a run whose held-out score does not fall is stopped by PartingGuard; 0: off
};

/// Flat access (config.learning_rate) for whoever reads; a function that needs one group takes that base.
struct RunConfig : ModelOptions,
                   MachineOptions,
                   DataOptions,
                   OptimizerOptions,
                   PeftOptions,
                   LoopOptions,
                   FilterOptions,
                   SampleOptions,
                   ConvertOptions,
                   PreferenceOptions,
                   OnPolicyOptions,
                   RolloutGuardOptions,
                   RewardOptions,
                   PpoOptions {
  int64_t seed = 42;
};

}  // namespace hone::config
