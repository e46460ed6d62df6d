#pragma once
// The options of learning from preferences that decide the bits of a run: they belong to its identity. Guards do not.
#include <nlohmann/json.hpp>

#include "hone/config/run_config.h"

namespace hone::app {

inline nlohmann::ordered_json preference_identity(const config::PreferenceOptions& o) {
  nlohmann::ordered_json identity{{"loss_type", o.loss_type},
                                  {"loss_weights", o.loss_weights},
                                  {"beta", o.beta},
                                  {"label_smoothing", o.label_smoothing},
                                  {"f_divergence_type", static_cast<int>(o.f_divergence_type)},
                                  {"f_alpha_divergence_coef", o.f_alpha_divergence_coef},
                                  {"ld_alpha", nullptr},
                                  {"use_weighting", o.use_weighting},
                                  {"discopop_tau", o.discopop_tau},
                                  {"sync_ref_model", o.sync_ref_model},
                                  {"ref_model_mixup_alpha", o.ref_model_mixup_alpha},
                                  {"ref_model_sync_steps", o.ref_model_sync_steps},
                                  {"desirable_weight", o.desirable_weight},
                                  {"undesirable_weight", o.undesirable_weight},
                                  {"cpo_alpha", o.cpo_alpha},
                                  {"simpo_gamma", o.simpo_gamma},
                                  {"alphapo_alpha", o.alphapo_alpha},
                                  {"center_rewards_coefficient", o.center_rewards_coefficient}};
  if (o.ld_alpha) identity["ld_alpha"] = *o.ld_alpha;
  return identity;
}

}  // namespace hone::app
