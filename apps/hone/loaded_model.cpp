#include "loaded_model.h"

#include "hone/base/error.h"
#include "hone/model/export.h"

namespace hone::app {
namespace {

std::string token_text(const text::Tokenizer& tokenizer, int32_t id) { return id < 0 ? std::string() : std::string(tokenizer.token_bytes(id)); }

}  // namespace

OpenedModel open_checked_model(const config::ModelOptions& options) {
  std::unique_ptr<model::ModelSource> source = model::open_model(options.model_name_or_path);
  if (!source->tokenizer()) fail("{}: there is no tokenizer.json beside the weights", source->path().string());
  TextModel text = make_text_model(*source->tokenizer(), options);
  return {std::move(source), std::move(text)};
}

std::unique_ptr<model::Model> load_weights(const OpenedModel& opened, const train::Machine& machine, int64_t positions) {
  return model::load_model(*opened.source, machine.backend, machine.device, positions);
}

void save_model_folder(const std::filesystem::path& folder, const OpenedModel& opened, const model::Model& model) {
  const text::Tokenizer& tokenizer = opened.text.tokenizer;
  model::SavedModel saved;
  saved.config = model.config;
  saved.produce = [&model](const std::string& name, int64_t begin, int64_t end, float* out) { model::read_tensor(model, name, begin, end, out); };
  saved.tokenizer_json = tokenizer.to_tokenizer_json();
  saved.chat_template = opened.text.chat.source();
  saved.tokenizer_config_json = tokenizer.to_tokenizer_config_json(saved.chat_template, model.config.max_position_embeddings);
  saved.bos_token = token_text(tokenizer, tokenizer.bos_id());
  saved.eos_token = token_text(tokenizer, tokenizer.eos_id());
  saved.unk_token = token_text(tokenizer, tokenizer.special_ids().unk);
  saved.pad_token = token_text(tokenizer, tokenizer.pad_id());
  saved.generation_config_json = opened.source->generation_config_json();
  model::save_model(folder, saved);
}

}  // namespace hone::app
