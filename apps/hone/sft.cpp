// hone sft: supervised fine-tuning.
#include "hone/methods/sft.h"

#include "training.h"

namespace hone::app {

int run_sft(const Arguments& arguments) {
  Technique technique;
  technique.load = [](const train::RowDataOptions& options) {
    const auto data = std::make_shared<const train::SftData>(train::load_sft_data(options));
    Task task = task_of(data, *options.config);
    task.method = std::make_unique<methods::Sft>(data->rows);
    return task;
  };
  return run_training(arguments, technique);
}

}  // namespace hone::app
