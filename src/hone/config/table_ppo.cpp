// The rows of the field table for proximal policy optimisation.
#include "hone/config/table_rows.h"

namespace hone::config {
namespace {

using C = RunConfig;

Rows kl_rows() {
  return {
      row("kl_coef", &C::kl_coef, "X", "weight of the KL divergence from the policy at step 0; with --kl_target where it starts")
          .also({"init_kl_coef"})
          .range(0, 1e6)
          .in(ppo)
          .shown(),
      choice("kl_estimator", &C::kl_estimator, "of the KL at a token: k1 = log ratio, k3 = exp(d) - 1 - d; auto: k1, with --kl_in_loss k3")
          .one_of({"auto", "k1", "k3"})
          .in(ppo),
      row("kl_target", &C::kl_target, "none|X", "nats a completion that kl_coef is steered to; none: it stays as it is")
          .also({"target", "ppo_target"})
          .range(0, 1e6)
          .empty_as("none")
          .in(ppo),
      row("kl_horizon", &C::kl_horizon, "N", "completions in which kl_coef may grow or shrink by a fifth")
          .also({"horizon"})
          .above(0)
          .below(1e12)
          .with(Needs::kl_target)
          .in(ppo),
      row("kl_in_loss", &C::kl_in_loss, "true|false", "the KL stands in the loss, not in the reward").also({"use_kl_loss"}).in(ppo),
  };
}

Rows ppo_loss_rows() {
  return {
      row("cliprange", &C::cliprange, "X", "the ratio is clipped to 1 - X .. 1 + X").also({"clip_ratio", "eps_clip"}).above(0).below(1e6).in(ppo),
      row("cliprange_value", &C::cliprange_value, "X", "a value's change is clipped to X")
          .also({"value_clip", "vf_clip"})
          .above(0)
          .below(1e9)
          .in(ppo),
      row("dual_clip", &C::dual_clip, "none|X", "with a negative advantage the ratio counts as at most X (verl: 3)")
          .also({"clip_ratio_c"})
          .above(1)
          .below(1e6)
          .empty_as("none")
          .in(ppo),
      row("vf_coef", &C::vf_coef, "X", "weight of the value loss").above(0).below(1e6).in(ppo),
      row("entropy_coef", &C::entropy_coef, "X", "weight of the entropy bonus").range(0, 1e6).in(ppo),
      row("gamma", &C::gamma, "X", "discount of later rewards, by token").range(0, 1).in(ppo),
      row("lam", &C::lam, "X", "GAE's lambda: 1 trusts the rewards, 0 the value model").also({"lambd", "gae_lambda"}).range(0, 1).in(ppo),
      row("critic_warmup", &C::critic_warmup, "N", "rollouts at the start in which only the value model learns").range(0, 1 << 30).in(ppo),
      row("num_ppo_epochs", &C::num_ppo_epochs, "N", "times that a rollout is trained on").also({"ppo_epochs"}).range(1, 1 << 12).in(ppo).shown(),
      row("num_mini_batches", &C::num_mini_batches, "N", "updates that one pass over a rollout is cut into").range(1, 1 << 20).in(ppo),
  };
}

Rows reward_shape_rows() {
  return {
      row("whiten_rewards", &C::whiten_rewards, "true|false", "the rewards of a rollout's tokens are divided by their deviation").in(ppo),
      row("use_score_scaling", &C::use_score_scaling, "true|false", "scores are divided by the deviation of all scores so far").in(ppo),
      row("use_score_norm", &C::use_score_norm, "true|false", "and their mean is taken off").in(ppo),
      row("reward_clip", &C::reward_clip, "none|X", "scores are clipped to -X .. X")
          .also({"score_clip"})
          .above(0)
          .below(1e9)
          .empty_as("none")
          .in(ppo),
      row("missing_eos_penalty", &C::missing_eos_penalty, "none|X", "taken off the score of a completion that was cut")
          .range(0, 1e9)
          .empty_as("none")
          .in(ppo),
      row("value_model", &C::value_model, "reward|policy|DIR", "what the value model starts from")
          .told_as("reward; without a reward model policy")
          .in(ppo)
          .shown(),
  };
}

}  // namespace

Rows ppo_rows() {
  Rows all = kl_rows();
  for (const Rows& more : {ppo_loss_rows(), reward_shape_rows()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace hone::config
