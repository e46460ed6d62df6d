// hone merge: adapter + base -> a model folder (of a reward adapter a reward model), compared with base and adapter before it gets its name.
#include <nlohmann/json.hpp>

#include "commands.h"
#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/log.h"
#include "loaded_model.h"
#include "model_comparison.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;

// A merge cannot be undone: into other values than those that the adapter was trained on it is refused.
void require_trained_values(const config::RunConfig& config, const adapters::PeftAdapter& files) {
  const std::string trained = held_in(files.config.base_quantisation), wanted = held_in(quantisation_name(config));
  if (files.base_hash.empty() || trained == wanted) return;
  fail(
      "--adapter {}: it was trained on its base in {}; merged into the base in {} it would stand on other values than those trained on. Leave out "
      "--load_in_4bit, --bnb_4bit_quant_type and --use_bnb_nested_quant: it is then merged into the values that {} stands for, written in float32",
      config.adapter, trained, wanted, trained);
}

void write_merged(const fs::path& path, const OpenedModel& opened, model::Model& model, const adapters::Adapter& adapter) {
  model::ModelConfig config = model.config;
  if (adapters::unties_head(model, adapter)) config.tie_word_embeddings = false;
  save_model_folder(path, opened, config, [&](const std::string& name, int64_t begin, int64_t end, float* out) {
    adapters::merged_tensor(model, adapter, name, begin, end, out);
  });
}

std::string report(const config::RunConfig& config, bool unties, const ModelDifference& difference) {
  if (config.format == config::Format::json) {
    nlohmann::ordered_json json = {
        {"output", config.output_dir}, {"adapter", config.adapter}, {"base_in_4bit", config.load_in_4bit}, {"head_untied", unties}};
    add_to(json, difference, config.max_dlogp);
    return json.dump() + "\n";
  }
  return fmt::format("{}: {} merged into {}{}{}\ncompared with base and adapter: {}; allowed {}\n", config.output_dir, config.adapter,
                     config.model_name_or_path, config.load_in_4bit ? ", its linears as the 4 bits give them back" : "",
                     difference.reward_model ? ": a reward model" : "", describe(difference), config.max_dlogp);
}

}  // namespace

int run_merge(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  UncheckedOutput output(config.output_dir);
  const adapters::PeftAdapter files = adapters::read_peft(config.adapter);
  const bool reward = files.config.task == adapters::Task::seq_cls;
  require_trained_values(config, files);
  const OpenedModel opened = open_checked_model(config, reward ? model::Head::any : model::Head::language);
  const model::ModelConfig& base = opened.source->config();
  const int64_t bytes = model::saved_bytes(reward ? model::as_reward_model(base) : base, model::DType::f32);
  if (const auto free = free_bytes(output.scratch()); static_cast<uint64_t>(bytes) > free)
    fail_resource("{}: the merged model needs {}, {} are free", config.output_dir, size_text(bytes), size_text(static_cast<int64_t>(free)));
  const auto prompts = comparison_prompts(&opened.text, base, config.data);
  PromptScores before;
  bool unties = false;
  {
    const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, 1024, !reward);
    const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
    before = score_prompts(*model, set_of(adapter), prompts);
    unties = adapters::unties_head(*model, *adapter);
    if (unties)
      log_warning("the base's head is tied to its embedding, and the adapter trained only one of them: the merged model has a head of its own");
    write_merged(output.scratch(), opened, *model, *adapter);
  }
  const std::unique_ptr<model::ModelSource> written =
      model::open_model(output.scratch().string(), reward ? model::Head::reward : model::Head::language);
  const std::unique_ptr<model::Model> merged = model::load_model(*written, machine.backend, machine.device, 1024);
  const ModelDifference found = difference(before, score_prompts(*merged, nullptr, prompts));
  require_close(found, config.max_dlogp, "the merged model", "Rounding alone is below 0.001: please report it, or give a greater --max_dlogp.");
  output.accept();
  print_result(report(config, unties, found));
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
