// hone grpo and hone rloo: learning from rewards for sampled completions.
#include "hone/methods/grpo.h"

#include "hone/base/log.h"
#include "hone/methods/rloo.h"
#include "training.h"

namespace hone::app {
namespace {

// What of the method's own options decides the bits of a run; those of sampling and judging stand beside it. Guards do not.
train::Json method_identity(const config::RunConfig& c) {
  const auto or_null = [](const std::optional<double>& value) { return value ? train::Json(*value) : train::Json(nullptr); };
  return {{"loss_type", c.loss_type},
          {"beta", c.beta},
          {"epsilon", c.epsilon},
          {"epsilon_high", or_null(c.epsilon_high)},
          {"delta", or_null(c.delta)},
          {"importance_sampling_level", static_cast<int>(c.importance_sampling_level)},
          {"scale_rewards", static_cast<int>(c.scale_rewards)},
          {"multi_objective_aggregation", static_cast<int>(c.multi_objective_aggregation)},
          {"advantage_estimator", static_cast<int>(c.advantage_estimator)},
          {"mask_truncated_completions", c.mask_truncated_completions},
          {"use_bias_correction_kl", c.use_bias_correction_kl},
          {"entropy_coef", c.entropy_coef},
          {"top_entropy_quantile", c.top_entropy_quantile},
          {"sapo_temperature", {c.sapo_temperature_neg, c.sapo_temperature_pos}},
          {"vespo", {c.vespo_k_pos, c.vespo_lambda_pos, c.vespo_k_neg, c.vespo_lambda_neg}},
          {"importance_sampling_mode", static_cast<int>(c.importance_sampling_mode)},
          {"importance_sampling_clip", {or_null(c.importance_sampling_clip_max), or_null(c.importance_sampling_clip_min)}},
          {"normalize_advantages", c.normalize_advantages},
          {"reward_clip_range", c.reward_clip_range}};
}

template <class Method>
int run_groups(const Arguments& arguments) {
  Technique technique;
  technique.unit = "prompts";
  technique.options = method_identity(arguments.config);
  technique.on_policy = OnPolicyTechnique{
      [](const config::RunConfig& config, std::vector<std::string> names) { return std::make_unique<Method>(config, std::move(names)); },
      [](const config::RunConfig& c) { return train::sliced_plan(c.batch_size, c.steps_per_generation, c.num_iterations); }};
  return run_training(arguments, technique);
}

}  // namespace

int run_grpo(const Arguments& arguments) {
  const config::RunConfig& c = arguments.config;
  if (const double bound = c.epsilon_high.value_or(c.epsilon); c.loss_type == std::vector<std::string>{"cispo"} && bound < 1)
    log_warning("--loss_type cispo cuts the ratio itself at --epsilon_high, which is {}: every token's weight is at most that; 5 is usual", bound);
  return run_groups<methods::Grpo>(arguments);
}
int run_rloo(const Arguments& arguments) { return run_groups<methods::Rloo>(arguments); }

}  // namespace hone::app
