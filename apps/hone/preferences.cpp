// hone dpo, orpo, simpo: learning from pairs. hone kto: from completions labelled good or bad.
#include "hone/methods/dpo.h"
#include "hone/methods/kto.h"
#include "hone/methods/orpo.h"
#include "hone/methods/simpo.h"
#include "hone/train/preference_data.h"
#include "training.h"

namespace hone::app {
namespace {

// What of the options decides the bits of a run. Guards do not.
train::Json preference_identity(const config::PreferenceOptions& o) {
  train::Json identity{{"loss_type", o.loss_type},
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

template <class Method>
int run_pairs(const Arguments& arguments) {
  Technique technique;
  technique.unit = "pairs";
  technique.options = preference_identity(arguments.config);
  technique.load = [](const train::RowDataOptions& options) {
    const auto data = std::make_shared<const train::PairData>(train::load_pair_data(options));
    Task task = task_of(data, *options.config);
    task.method = std::make_unique<Method>(data->rows, *options.config, options.config->max_tree_tokens);
    return task;
  };
  return run_training(arguments, technique);
}

}  // namespace

int run_dpo(const Arguments& arguments) { return run_pairs<methods::Dpo>(arguments); }
int run_orpo(const Arguments& arguments) { return run_pairs<methods::Orpo>(arguments); }
int run_simpo(const Arguments& arguments) { return run_pairs<methods::Simpo>(arguments); }

int run_kto(const Arguments& arguments) {
  Technique technique;
  technique.options = preference_identity(arguments.config);
  technique.load = [](const train::RowDataOptions& options) {
    const auto data = std::make_shared<const train::UnpairedData>(train::load_unpaired_data(options));
    Task task = task_of(data, *options.config);
    task.method = std::make_unique<methods::Kto>(data->rows, *options.config);
    return task;
  };
  return run_training(arguments, technique);
}

}  // namespace hone::app
