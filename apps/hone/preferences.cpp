// hone dpo, orpo, simpo: learning from pairs. hone kto: from completions labelled good or bad.
#include "hone/methods/dpo.h"
#include "hone/methods/kto.h"
#include "hone/methods/orpo.h"
#include "hone/methods/simpo.h"
#include "hone/train/preference_data.h"
#include "preference_options.h"
#include "training.h"

namespace hone::app {
namespace {

template <class Method>
int run_pairs(const Arguments& arguments) {
  Technique technique;
  technique.unit = "pairs";
  technique.options = preference_identity(arguments.config);
  technique.load = [](const train::SftDataOptions& options) {
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
  technique.load = [](const train::SftDataOptions& options) {
    const auto data = std::make_shared<const train::UnpairedData>(train::load_unpaired_data(options));
    Task task = task_of(data, *options.config);
    task.method = std::make_unique<methods::Kto>(data->rows, *options.config);
    return task;
  };
  return run_training(arguments, technique);
}

}  // namespace hone::app
