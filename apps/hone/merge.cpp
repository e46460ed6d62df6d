// hone merge: adapter + base -> a model folder, compared with base and adapter before it gets its name.
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

// An adapter belongs to the values that it was trained on: where its own note says that the base was in 4 bits then, it is now, unless the
// user says otherwise.
void take_base_quantisation(config::RunConfig& config, const std::set<std::string>& given, const std::string& trained) {
  if (trained.empty() || given.count("load_in_4bit")) return;
  config.load_in_4bit = true;
  if (!given.count("bnb_4bit_quant_type")) config.bnb_4bit_quant_type = trained.starts_with("fp4") ? config::QuantType::fp4 : config::QuantType::nf4;
  if (!given.count("use_bnb_nested_quant")) config.use_bnb_nested_quant = trained.ends_with("+nested");
  log_info("the adapter was trained on its base in {}: it is merged into those values (--load_in_4bit false for the others)", trained);
}

void write_merged(const fs::path& path, const OpenedModel& opened, model::Model& model, const adapters::Adapter& adapter) {
  model::SavedModel saved;
  saved.config = model.config;
  if (adapters::unties_head(model, adapter)) saved.config.tie_word_embeddings = false;
  saved.produce = [&](const std::string& name, int64_t begin, int64_t end, float* out) {
    adapters::merged_tensor(model, adapter, name, begin, end, out);
  };
  set_tokenizer(saved, opened.text.tokenizer, opened.text.chat.source());
  saved.generation_config_json = opened.source->generation_config_json();
  model::save_model(path, saved);
}

std::string report(const config::RunConfig& config, bool unties, const ModelDifference& difference) {
  if (config.format == config::Format::json) {
    const nlohmann::ordered_json json = {
        {"output", config.output_dir},   {"adapter", config.adapter},   {"base_in_4bit", config.load_in_4bit}, {"head_untied", unties},
        {"mean_dlogp", difference.mean}, {"max_dlogp", difference.max}, {"allowed_dlogp", config.max_dlogp},   {"top1_agreement", difference.top1},
        {"tokens", difference.tokens}};
    return json.dump() + "\n";
  }
  return fmt::format("{}: {} merged into {}{}\ncompared with base and adapter: {}; allowed {}\n", config.output_dir, config.adapter,
                     config.model_name_or_path, config.load_in_4bit ? ", its linears as the 4 bits give them back" : "", describe(difference),
                     config.max_dlogp);
}

}  // namespace

int run_merge(const Arguments& arguments) {
  config::RunConfig config = arguments.config;
  const train::Machine machine = train::apply_machine_options(config);
  UncheckedOutput output(config.output_dir);
  take_base_quantisation(config, arguments.given, adapters::read_peft(config.adapter).config.base_quantisation);
  const OpenedModel opened = open_checked_model(config);
  const int64_t bytes = model::saved_bytes(opened.source->config(), model::DType::f32);
  if (const auto free = free_bytes(output.scratch()); static_cast<uint64_t>(bytes) > free)
    fail_resource("{}: the merged model needs {:.1f} MB, {:.1f} MB are free", config.output_dir, static_cast<double>(bytes) / 1e6,
                  static_cast<double>(free) / 1e6);
  const auto prompts = comparison_prompts(&opened.text, opened.source->config(), config.data);
  PromptScores before;
  bool unties = false;
  {
    const std::unique_ptr<model::Model> model = load_weights(*opened.source, machine, config, 1024);
    const std::unique_ptr<adapters::Adapter> adapter = load_adapter(*model, *opened.source, config, false);
    before = score_prompts(*model, set_of(adapter), prompts);
    unties = adapters::unties_head(*model, *adapter);
    if (unties)
      log_warning("the base's head is tied to its embedding, and the adapter trained only one of them: the merged model has a head of its own");
    write_merged(output.scratch(), opened, *model, *adapter);
  }
  const std::unique_ptr<model::ModelSource> written = model::open_model(output.scratch().string());
  const std::unique_ptr<model::Model> merged = model::load_model(*written, machine.backend, machine.device, 1024);
  const ModelDifference found = difference(before, score_prompts(*merged, nullptr, prompts));
  require_close(found, config.max_dlogp, "the merged model", "Rounding alone is below 0.001: please report it, or give a greater --max_dlogp.");
  output.accept();
  print_result(report(config, unties, found));
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
