// The rows of the field table for pairs, and for completions labelled good or bad.
#include "hone/config/table_rows.h"

namespace hone::config {
namespace {

using C = RunConfig;

Row loss_row(std::vector<std::string> names, std::string help) {
  Row result = row("loss_type", &C::loss_type, "", std::move(help)).starts_as(names.front()).shown();
  result.choices = std::move(names);
  return result;
}

Rows loss_rows() {
  return {
      loss_row({"sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down",
                "discopop", "sft", "sigmoid_norm"},
               "loss; several are added up (--loss_weights)")
          .or_as({{"dpo", "sigmoid"}})
          .but({{"kto", "give hone kto"},
                {"kto_pair", "give hone kto: it takes pairs, too"},
                {"apo_zero_unpaired", "give hone kto"},
                {"orpo", "give hone orpo"},
                {"simpo", "give hone simpo"},
                {"alphapo", "give hone simpo"},
                {"cdpo", "TRL has none either; robust with --label_smoothing is its unbiased form"}})
          .in(dpo),
      loss_row({"kto", "apo_zero_unpaired"}, "loss").in(kto),
      loss_row({"simpo", "sigmoid", "hinge", "ipo", "alphapo"}, "simpo, or CPO's sigmoid, hinge or ipo, or alphapo")
          .or_as({{"cpo", "sigmoid"}})
          .in(simpo),
      row("loss_weights", &C::loss_weights, "X...", "weight of each --loss_type").range(0, 1e6).told_as("1 for each").in(dpo),
      row("rpo_alpha", &C::rpo_alpha, "X", "the same as --loss_type sigmoid sft --loss_weights 1 X")
          .also({"pref_ftx"})
          .range(0, 1e6)
          .empty_as("none")
          .stands_for_others()
          .in(dpo),
  };
}

Rows strength_rows() {
  const auto label_smoothing = [](std::string help) {
    return row("label_smoothing", &C::label_smoothing, "X", std::move(help)).range(0, 1).below(1);
  };
  return {
      row("beta", &C::beta, "X", "how strongly the policy is held to the reference; ipo: its regularizer tau")
          .also({"pref_beta"})
          .above(0)
          .below(1e6)
          .in(dpo | kto)
          .shown(),
      row("beta", &C::beta, "X", "weight of the odds-ratio term (lambda in the paper)")
          .also({"pref_beta", "orpo_alpha"})
          .range(0, 1e6)
          .in(orpo)
          .shown(),
      row("beta", &C::beta, "X", "scale of the rewards").also({"pref_beta"}).above(0).below(1e6).in(simpo).shown(),
      label_smoothing("robust: share of the pairs whose sides are swapped, below 0.5; exo_pair: epsilon, above 0; aot: weight of the other order")
          .for_losses({"robust", "exo_pair", "aot", "aot_unpaired"})
          .in(dpo),
      label_smoothing("share of the pairs whose sides are swapped").for_losses({"simpo", "alphapo", "sigmoid"}).in(simpo),
      label_smoothing("share of the pairs whose sides are swapped").in(reward),
      row("desirable_weight", &C::desirable_weight, "X", "weight of the rows labelled true").range(0, 1e6).in(kto),
      row("undesirable_weight", &C::undesirable_weight, "X", "weight of the rows labelled false").range(0, 1e6).in(kto),
      row("cpo_alpha", &C::cpo_alpha, "X", "weight of the chosen completions' own loss")
          .range(0, 1e6)
          .told_as("0 for simpo and alphapo, 1 for the others")
          .in(simpo),
      row("simpo_gamma", &C::simpo_gamma, "X", "margin between the rewards that is aimed at")
          .range(0, 1e6)
          .for_losses({"simpo", "alphapo"})
          .in(simpo),
      row("alphapo_alpha", &C::alphapo_alpha, "X", "AlphaPO: shape of the reward (1 - p^-alpha) / alpha of a mean probability p; 0: log p")
          .also({"alpha"})
          .range(-100, 100)
          .in(simpo),
      row("center_rewards_coefficient", &C::center_rewards_coefficient, "X", "weight of (chosen + rejected)^2, which keeps rewards around 0; 0: off")
          .range(0, 1e6)
          .in(reward)
          .shown(),
  };
}

Rows reference_rows() {
  return {
      choice("f_divergence_type", &C::f_divergence_type, "what holds the policy to the reference")
          .one_of({"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"})
          .in(dpo),
      row("f_alpha_divergence_coef", &C::f_alpha_divergence_coef, "X", "exponent of the alpha divergence")
          .range(-100, 100)
          .with(Needs::alpha_divergence)
          .in(dpo),
      row("ld_alpha", &C::ld_alpha, "none|X", "LD-DPO: weight of the tokens behind the length of the pair's shorter completion; none: 1")
          .range(0, 1)
          .empty_as("none")
          .in(dpo),
      row("use_weighting", &C::use_weighting, "true|false", "WPO: pairs count by how likely the policy finds them").in(dpo),
      row("discopop_tau", &C::discopop_tau, "X", "discopop: temperature of the blend").above(0).below(1e6).for_losses({"discopop"}).in(dpo),
      row("sync_ref_model", &C::sync_ref_model, "true|false", "TR-DPO: the reference follows the policy").in(dpo | kto),
      row("ref_model_mixup_alpha", &C::ref_model_mixup_alpha, "X", "share of the policy in the new reference")
          .above(0)
          .range(0, 1)
          .with(Needs::synced_reference)
          .in(dpo | kto),
      row("ref_model_sync_steps", &C::ref_model_sync_steps, "N", "steps between two such updates")
          .range(1, 1e9)
          .with(Needs::synced_reference)
          .in(dpo | kto),
      row("max_chosen_drop", &C::max_chosen_drop, "X",
          "guard: nats a token that the chosen completions' mean log-probability may fall below the reference's; 0: off")
          .range(0, 1e6)
          .in(dpo | kto),
  };
}

}  // namespace

Rows preference_rows() {
  Rows all = loss_rows();
  for (const Rows& more : {strength_rows(), reference_rows()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace hone::config
