// The rows of the field table for learning from sampled completions, and for what judges them.
#include "hone/config/table_rows.h"

namespace hone::config {
namespace {

using C = RunConfig;
constexpr unsigned kJudged = kOnPolicyCommands | eval | grade;  // commands that take any reward

Rows policy_loss_rows() {
  Row loss = row("loss_type", &C::loss_type, "", "loss and its normaliser").starts_as("dapo").shown();
  loss.choices = {"grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"};
  const auto beta = [](const char* start, const char* help) {
    return row("beta", &C::beta, "X", help).also({"kl_beta"}).range(0, 1e6).starts_as(start).shown();
  };
  return {
      loss.but({{"gspo", "give --importance_sampling_level sequence"}, {"rloo", "give hone rloo"}, {"ppo", "give hone ppo"}}).in(grpo),
      beta("0", "weight of the KL divergence from the policy at step 0; 0: no reference is computed").in(grpo),
      beta("0.05", "weight of the KL divergence from the policy at step 0, taken off the reward; 0: no reference is computed").in(rloo),
      row("epsilon", &C::epsilon, "X", "the ratio is clipped at 1 - epsilon").also({"epsilon_low", "clip_eps"}).range(0, 1e6).in(kGroupCommands),
      row("epsilon_high", &C::epsilon_high, "none|X", "and at 1 + epsilon_high; none: epsilon; cispo: its upper bound of the ratio")
          .range(0, 1e6)
          .empty_as("none")
          .in(kGroupCommands),
      row("delta", &C::delta, "none|X", "upper bound of the ratio where it is not clipped (two-sided clipping)")
          .above(0)
          .below(1e6)
          .empty_as("none")
          .in(grpo),
      choice("importance_sampling_level", &C::importance_sampling_level, "one ratio a token, or one a completion (GSPO)")
          .one_of({"token", "sequence"})
          .in(grpo),
      row("sapo_temperature_neg", &C::sapo_temperature_neg, "X", "sapo: temperature of negative advantages")
          .above(0)
          .below(1e6)
          .for_losses({"sapo"})
          .in(grpo),
      row("sapo_temperature_pos", &C::sapo_temperature_pos, "X", "sapo: temperature of positive advantages")
          .above(0)
          .below(1e6)
          .for_losses({"sapo"})
          .in(grpo),
      row("vespo_k_pos", &C::vespo_k_pos, "X", "vespo: exponent k of positive advantages").range(0, 1e6).for_losses({"vespo"}).in(grpo),
      row("vespo_lambda_pos", &C::vespo_lambda_pos, "X", "vespo: decay lambda of positive advantages").range(0, 1e6).for_losses({"vespo"}).in(grpo),
      row("vespo_k_neg", &C::vespo_k_neg, "X", "vespo: exponent k of negative advantages").range(0, 1e6).for_losses({"vespo"}).in(grpo),
      row("vespo_lambda_neg", &C::vespo_lambda_neg, "X", "vespo: decay lambda of negative advantages").range(0, 1e6).for_losses({"vespo"}).in(grpo),
      row("entropy_coef", &C::entropy_coef, "X", "weight of the entropy bonus").range(0, 1e6).in(grpo),
      row("top_entropy_quantile", &C::top_entropy_quantile, "X", "share of the tokens, those of highest entropy, that are trained on; 1: all")
          .above(0)
          .range(0, 1)
          .in(grpo),
      row("mask_truncated_completions", &C::mask_truncated_completions, "true|false", "completions that were cut are not trained on")
          .in(kGroupCommands),
      row("use_bias_correction_kl", &C::use_bias_correction_kl, "true|false", "the KL term times the ratio, which makes its gradient unbiased")
          .in(grpo),
  };
}

Rows advantage_rows() {
  return {
      choice("advantage_estimator", &C::advantage_estimator,
             "what a reward is measured against: its group's mean, the others of its group, the batch")
          .one_of({"group", "rloo", "reinforce_plus_plus"})
          .or_as({{"grpo", "group"}, {"reinforce++", "reinforce_plus_plus"}})
          .in(grpo),
      choice("scale_rewards", &C::scale_rewards, "advantages are divided by the deviation of the group, of the batch, or by nothing")
          .one_of({"group", "batch", "none"})
          .or_as({{"true", "group"}, {"false", "none"}})
          .in(grpo),
      choice("multi_objective_aggregation", &C::multi_objective_aggregation, "several rewards: summed and then normalised, or each normalised first")
          .one_of({"sum_then_normalize", "normalize_then_sum"})
          .in(grpo),
      row("normalize_advantages", &C::normalize_advantages, "true|false", "advantages are made standard over the batch").in(rloo),
      row("reward_clip_range", &C::reward_clip_range, "LOW HIGH", "rewards are clipped to this range").range(-1e9, 1e9).told_as("none").in(rloo),
  };
}

Rows sampling_rows() {
  return {
      row("num_generations", &C::num_generations, "N", "completions for each prompt")
          .also({"group_size"})
          .range(1, 1 << 12)
          .starts_as("8")
          .in(grpo)
          .shown(),
      row("num_generations", &C::num_generations, "N", "completions for each prompt")
          .also({"rloo_k"})
          .range(1, 1 << 12)
          .starts_as("2")
          .in(rloo)
          .shown(),
      row("num_generations", &C::num_generations, "N", "completions for each prompt").range(1, 1 << 12).starts_as("1").in(ppo).shown(),
      row("max_completion_length", &C::max_completion_length, "N", "longest completion in tokens")
          .also({"response_length", "max_new_tokens"})
          .range(1, 1 << 20)
          .in(kOnPolicyCommands)
          .shown(),
      row("steps_per_generation", &C::steps_per_generation, "N", "optimizer steps that share the completions of N times --batch_size prompts")
          .range(1, 1 << 12)
          .in(kGroupCommands),
      row("num_iterations", &C::num_iterations, "N", "times that the completions are trained on").also({"mu"}).range(1, 1 << 12).in(kGroupCommands),
      row("dynamic_sampling", &C::dynamic_sampling, "true|false", "DAPO: groups whose rewards are all equal are replaced by those of fresh prompts")
          .in(kGroupCommands),
      row("max_resample", &C::max_resample, "N", "rounds of fresh prompts at most").range(1, 1000).with(Needs::dynamic_sampling).in(kGroupCommands),
      row("skip_zero_advantage", &C::skip_zero_advantage, "true|false", "groups without any advantage cost no forward and backward; the same bits")
          .in(kGroupCommands),
      choice("importance_sampling_mode", &C::importance_sampling_mode,
             "how the ratio of the trained law over the truncated one that sampled is bounded")
          .also({"vllm_importance_sampling_mode"})
          .one_of({"token_truncate", "token_mask", "sequence_truncate", "sequence_mask"})
          .in(grpo),
      row("importance_sampling_clip_max", &C::importance_sampling_clip_max, "none|X", "correct by that ratio, at most X; none: off")
          .also({"vllm_importance_sampling_clip_max"})
          .above(0)
          .below(1e9)
          .empty_as("none")
          .in(grpo),
      row("importance_sampling_clip_min", &C::importance_sampling_clip_min, "none|X", "and at least X")
          .also({"vllm_importance_sampling_clip_min"})
          .range(0, 1e9)
          .empty_as("none")
          .in(grpo),
      row("max_kl", &C::max_kl, "X", "guard: nats a token that the policy may be from its start, median of ten steps; 0: off")
          .range(0, 1e6)
          .in(grpo | ppo),
      row("max_sampling_gap", &C::max_sampling_gap, "X", "guard: nats a token by which sampler and trainer may differ; 0: off")
          .range(0, 1e6)
          .in(kOnPolicyCommands),
      row("max_length_drift", &C::max_length_drift, "X",
          "guard: completions longer than X times those at the start, and 64 tokens, median of ten rollouts; 0: off")
          .range(0, 1e6)
          .in(kOnPolicyCommands),
      row("max_repetition_drift", &C::max_repetition_drift, "X",
          "guard: rise of the share of repeated runs of four tokens since the start, median of ten rollouts; 0: off")
          .range(0, 1)
          .in(kOnPolicyCommands),
      row("parting_level", &C::parting_level, "X",
          "guard: train reward rises and held-out score falls; chance of stopping a run whose score does not fall; 0: off")
          .range(0, 0.5)
          .in(kOnPolicyCommands),
  };
}

}  // namespace

Rows group_rows() {
  Rows all = policy_loss_rows();
  for (const Rows& more : {advantage_rows(), sampling_rows()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

Rows reward_rows() {
  return {
      row("reward", &C::reward, "[NAME=]SPEC...",
          "what judges: math, exact, regex:PATTERN, json:FILE, ifeval, code, format:PATTERN, length:MAX,CACHE, repetition:N,MAX, "
          "python:FILE:FUNCTION, "
          "program:COMMAND, model:DIR")
          .also({"reward_funcs"})
          .told_as("")
          .in(kOnPolicyCommands)
          .shown(),
      row("reward", &C::reward, "SPEC", "prompts: sample and judge (math, code, ... as hone grpo); pairs: report on this reward model (model:DIR)")
          .told_as("none")
          .in(eval)
          .shown(),
      row("reward", &C::reward, "SPEC", "what judges: math, exact, code, model:DIR, ... as hone grpo").told_as("").in(grade).shown(),
      row("eval_reward", &C::eval_reward, "[NAME=]SPEC...",
          "a second opinion on --eval_file that is never trained on: eval_reward, and with it the best checkpoint, is its")
          .told_as("none")
          .with(Needs::held_out)
          .in(kOnPolicyCommands)
          .shown(),
      row("reward_weights", &C::reward_weights, "X...", "weight of each --reward").range(-1e6, 1e6).told_as("1 for each").in(kOnPolicyCommands),
      row("pass_k", &C::pass_k, "K,...", "the k of pass@k, each at most --num_generations").split_at_commas().range(1, 1 << 16).in(eval).shown(),
      row("allow_unsandboxed", &C::allow_unsandboxed, "true|false", "code: run it where this machine cannot isolate it").in(kJudged),
      row("code_command", &C::code_command, "COMMAND", "code: what runs a completion; {file} is its file").in(kJudged),
      row("code_timeout", &C::code_timeout, "X", "code: seconds of processor time").above(0).below(86400).in(kJudged),
      row("code_memory_mib", &C::code_memory_mib, "N", "code: memory of a program").range(16, 1 << 20).in(kJudged),
      row("reward_timeout", &C::reward_timeout, "X", "python, program: seconds for an answer").above(0).below(86400).in(kJudged),
  };
}

}  // namespace hone::config
