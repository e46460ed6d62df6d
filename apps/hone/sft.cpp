// hone sft: supervised fine-tuning.
#include "hone/methods/sft.h"

#include "training.h"

namespace hone::app {

Technique sft_technique() {
  Technique technique;
  technique.load = [](const train::RowDataOptions& options) {
    const auto data = std::make_shared<const train::SftData>(train::load_sft_data(options));
    Task task = task_of(data, *options.config);
    task.method = std::make_unique<methods::Sft>(data->rows);
    return task;
  };
  return technique;
}

int run_sft(const Arguments& arguments) { return run_training(arguments, sft_technique()); }

}  // namespace hone::app
