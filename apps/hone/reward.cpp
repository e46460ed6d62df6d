// hone reward: a reward model from pairs, and at the end what it is worth on held-out ones.
#include "hone/base/log.h"
#include "hone/methods/reward_model.h"
#include "hone/train/pair_scoring.h"
#include "hone/train/preference_data.h"
#include "training.h"

namespace hone::app {

Technique reward_technique(const config::RunConfig& given) {
  Technique technique;
  technique.unit = "pairs";
  technique.reward_model = true;
  technique.options = {{"label_smoothing", given.label_smoothing}, {"center_rewards_coefficient", given.center_rewards_coefficient}};
  technique.load = [](const train::RowDataOptions& options) {
    const auto data = std::make_shared<const train::PairData>(train::load_pair_data(options));
    Task task = task_of(data, *options.config);
    task.method = std::make_unique<methods::RewardModel>(data->rows, *options.config, options.config->max_tree_tokens);
    return task;
  };
  technique.report = [](model::Model& model, ops::AdapterSet* adapters, const Task& held_out, const config::RunConfig& config) {
    const auto& method = dynamic_cast<const methods::RewardModel&>(*held_out.method);
    std::vector<data::PairRow> pairs;
    for (int64_t i = 0; i < method.num_rows(); ++i) pairs.push_back(method.row(i));
    const train::RewardReport report =
        train::held_out_report(model, pairs, {config.micro_batch_tokens.value_or(1024), config.max_tree_tokens, adapters});
    log_info("held-out accuracy {:.1f} % ({:.1f} to {:.1f}), calibration error {:.3f}; hone eval --reward shows the report",
             100 * report.accuracy.share.value, 100 * report.accuracy.share.low, 100 * report.accuracy.share.high, report.calibration.error.value);
    return train::to_json(report);
  };
  return technique;
}

int run_reward(const Arguments& arguments) { return run_training(arguments, reward_technique(arguments.config)); }

}  // namespace hone::app
