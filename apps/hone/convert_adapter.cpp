// hone convert --adapter: an adapter directory written anew in PEFT's layout, compared on its base before it gets its name.
#include <map>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "console.h"
#include "hone/base/error.h"
#include "hone/base/files.h"
#include "loaded_model.h"
#include "model_comparison.h"

namespace hone::app {

namespace {

// The tokenizer's files that stand beside the adapter, as they are.
std::map<std::string, std::string> tokenizer_files(const std::filesystem::path& folder) {
  constexpr size_t kLimit = size_t{1} << 28;
  std::map<std::string, std::string> texts;
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"})
    if (std::filesystem::exists(folder / name)) texts[name] = read_text(folder / name, kLimit);
  return texts;
}

}  // namespace

int run_convert_adapter(const Arguments& arguments) {
  const config::RunConfig& config = arguments.config;
  if (arguments.given.count("gguf_type")) fail("--gguf_type is for models; with --adapter an adapter directory is written");
  if (std::filesystem::path(config.output).extension() == ".gguf")
    fail("--output {}: an adapter is written as a directory; to have it in a GGUF file, hone merge it and convert the result", config.output);
  const train::Machine machine = train::apply_machine_options(config);
  UncheckedOutput output(config.output);
  const adapters::PeftAdapter files = adapters::read_peft(config.adapter);
  const bool reward = files.config.task == adapters::Task::seq_cls;
  const std::unique_ptr<model::ModelSource> source = model::open_model(config.model_name_or_path, reward ? model::Head::any : model::Head::language);
  std::optional<TextModel> text;
  if (source->tokenizer() != nullptr) text = make_text_model(*source->tokenizer(), config);
  const auto prompts = comparison_prompts(text ? &*text : nullptr, source->config(), config.data);
  const std::unique_ptr<model::Model> model = model::load_model(*source, machine.backend, machine.device, 1024, {}, !reward);
  const auto score = [&](const adapters::PeftAdapter& from, bool write) {
    const std::unique_ptr<adapters::Adapter> adapter = adapters::load_adapter(*model, from, *source, /*trainable=*/false);
    if (write) {
      if (adapter->weights_hash.empty()) adapter->weights_hash = model::weights_hash(*source);
      adapter->config.base_model_name_or_path = config.model_name_or_path;  // PEFT's auto class opens it from there
      adapters::save_adapter(*adapter, output.scratch(), tokenizer_files(config.adapter));
    }
    return score_prompts(*model, &adapter->set, prompts);
  };
  const PromptScores before = score(files, true);
  const adapters::PeftAdapter written = adapters::read_peft(output.scratch());
  const ModelDifference found = difference(before, score(written, false));
  require_close(found, config.max_dlogp, "the adapter as written", "Values in float32 are kept exactly: please report it.");
  output.accept();
  if (config.format == config::Format::json) {
    nlohmann::ordered_json json = {{"output", config.output}, {"form", "adapter"}, {"tensors", written.tensors.size()}};
    add_to(json, found, config.max_dlogp);
    print_result(json.dump() + "\n");
  } else {
    print_result(fmt::format("{}: an adapter of {} tensors\ncompared with {}: {}; allowed {}\n", config.output, written.tensors.size(),
                             config.adapter, describe(found), config.max_dlogp));
  }
  return static_cast<int>(Exit::ok);
}

}  // namespace hone::app
