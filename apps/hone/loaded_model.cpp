#include "loaded_model.h"

#include "console.h"
#include "hone/base/error.h"
#include "hone/base/log.h"
#include "reward_models.h"

namespace hone::app {
namespace {

std::string token_text(const text::Tokenizer& tokenizer, int32_t id) { return id < 0 ? std::string() : std::string(tokenizer.token_bytes(id)); }

// A score is read at the last token that is no padding: in transformers by pad_token_id, so that it must not be the end-of-turn token.
void set_reward_pad(model::SavedModel& saved, const OpenedModel& opened) {
  const int32_t pad = reward_pad_id(opened.text, opened.source->config());
  if (pad < 0) log_warning("no special token is free to be the reward model's padding: transformers will score one row at a time only");
  saved.config.pad_token_id = pad;
  saved.pad_token = token_text(opened.text.tokenizer, pad);
}

}  // namespace

std::string quantisation_name(const config::PeftOptions& o) {
  if (!o.load_in_4bit || o.bnb_4bit_quant_type == config::QuantType::gguf) return {};
  return std::string(o.bnb_4bit_quant_type == config::QuantType::nf4 ? "nf4" : "fp4") + (o.use_bnb_nested_quant ? "+nested" : "");
}

std::string held_in(const std::string& quantisation) { return quantisation.empty() ? "float32" : quantisation; }

void follow_adapter(config::RunConfig& config, const std::set<std::string>& given) {
  if (config.adapter.empty() || (given.count("load_in_4bit") && !config.load_in_4bit)) return;
  const std::string trained = adapters::read_peft(config.adapter).config.base_quantisation;
  if (trained.empty()) return;
  config.load_in_4bit = true;
  if (!given.count("bnb_4bit_quant_type")) config.bnb_4bit_quant_type = trained.starts_with("fp4") ? config::QuantType::fp4 : config::QuantType::nf4;
  if (!given.count("use_bnb_nested_quant")) config.use_bnb_nested_quant = trained.ends_with("+nested");
  if (!given.count("load_in_4bit"))
    notice(fmt::format("the adapter was trained on its base in {}: so it is held here (--load_in_4bit false: float32)", trained));
}

OpenedModel open_checked_model(const config::ModelOptions& options, model::Head head) {
  std::unique_ptr<model::ModelSource> source = model::open_model(options.model_name_or_path, head);
  if (!source->tokenizer()) fail("{}: there is no tokenizer.json beside the weights", source->path().string());
  TextModel text = make_text_model(*source->tokenizer(), options);
  return {std::move(source), std::move(text)};
}

train::RowDataOptions row_options(const config::RunConfig& config, const OpenedModel& opened, const std::vector<std::string>& files,
                                  const std::filesystem::path& bad_rows) {
  train::RowDataOptions options;
  options.files = files;
  options.config = &config;
  options.tokenizer = &opened.text.tokenizer;
  options.chat = &opened.text.chat;
  options.vocab_size = opened.source->config().vocab_size;
  options.bad_rows = bad_rows;
  options.cache_folder = train::default_cache_folder();
  return options;
}

std::optional<model::Quantisation> quantisation_of(const config::PeftOptions& o) {
  if (o.weights == config::Weights::int8) return model::Quantisation{.type = kernels::QuantType::int8};
  if (!o.load_in_4bit) return std::nullopt;
  if (o.bnb_4bit_quant_type == config::QuantType::gguf) return model::Quantisation{.stored = true};
  return model::Quantisation{o.bnb_4bit_quant_type == config::QuantType::nf4 ? kernels::QuantType::nf4 : kernels::QuantType::fp4,
                             o.use_bnb_nested_quant};
}

adapters::LoraConfig lora_config(const config::PeftOptions& o, const std::string& base, adapters::Task task) {
  adapters::LoraConfig c;
  c.task = task;
  c.r = o.lora_r;
  c.lora_alpha = o.lora_alpha;
  c.lora_dropout = o.lora_dropout;
  c.target_modules = o.lora_target_modules;
  c.modules_to_save = o.lora_modules_to_save;
  c.use_rslora = o.use_rslora;
  c.use_dora = o.use_dora;
  c.init_lora_weights = static_cast<adapters::InitLora>(o.init_lora_weights);
  c.base_model_name_or_path = base;
  c.base_quantisation = quantisation_name(o);
  return c;
}

std::unique_ptr<model::Model> load_weights(const model::ModelSource& source, const train::Machine& machine, const config::PeftOptions& options,
                                           int64_t positions, bool language_head) {
  return model::load_model(source, machine.backend, machine.device, positions, quantisation_of(options), language_head);
}

std::unique_ptr<adapters::Adapter> load_adapter(model::Model& model, const model::ModelSource& source, const config::PeftOptions& options,
                                                bool trainable) {
  if (options.adapter.empty()) return nullptr;
  const adapters::PeftAdapter files = adapters::read_peft(options.adapter);
  const bool reward = files.config.task == adapters::Task::seq_cls;
  if (reward && !model.config.reward_model)
    fail("--adapter {}: an adapter of a reward model (task_type SEQ_CLS); score with it by --reward model:{} (hone eval, hone grade)",
         options.adapter, options.adapter);
  if (!reward && model.config.reward_model)
    fail("--adapter {}: an adapter of a language model (task_type CAUSAL_LM) has no reward head; hone reward --use_peft trains one that has",
         options.adapter);
  std::unique_ptr<adapters::Adapter> adapter = adapters::load_adapter(model, files, source, trainable);
  const std::string now = quantisation_name(options), trained = files.config.base_quantisation;
  if (!files.base_hash.empty() && now != trained)
    log_warning(
        "{}: the adapter was trained on its base in {} and is applied to it in {}, which are other values: its results will differ; leave out "
        "--load_in_4bit and --bnb_4bit_quant_type to have those trained on",
        options.adapter, held_in(trained), held_in(now));
  adapter->config.base_quantisation = now;
  adapter->config.base_model_name_or_path = source.path().string();
  return adapter;
}

void save_adapter_folder(const std::filesystem::path& folder, const OpenedModel& opened, adapters::Adapter& adapter) {
  if (adapter.weights_hash.empty()) adapter.weights_hash = model::weights_hash(*opened.source);
  model::SavedModel saved;
  saved.config = opened.source->config();
  set_tokenizer(saved, opened.text.tokenizer, opened.text.chat.source());
  if (adapter.config.task == adapters::Task::seq_cls) set_reward_pad(saved, opened);
  adapters::save_adapter(adapter, folder, {{"tokenizer.json", saved.tokenizer_json}, {"tokenizer_config.json", model::tokenizer_config_text(saved)}});
}

void set_tokenizer(model::SavedModel& saved, const text::Tokenizer& tokenizer, const std::string& chat_template) {
  saved.tokenizer_json = tokenizer.to_tokenizer_json();
  saved.chat_template = chat_template;
  saved.tokenizer_config_json = tokenizer.to_tokenizer_config_json(chat_template, saved.config.max_position_embeddings);
  saved.bos_token = token_text(tokenizer, tokenizer.bos_id());
  saved.eos_token = token_text(tokenizer, tokenizer.eos_id());
  saved.unk_token = token_text(tokenizer, tokenizer.special_ids().unk);
  saved.pad_token = token_text(tokenizer, tokenizer.pad_id());
}

void save_model_folder(const std::filesystem::path& folder, const OpenedModel& opened, const model::ModelConfig& config,
                       std::function<void(const std::string& name, int64_t begin, int64_t end, float* out)> produce) {
  model::SavedModel saved;
  saved.config = config;
  saved.produce = std::move(produce);
  set_tokenizer(saved, opened.text.tokenizer, opened.text.chat.source());
  saved.generation_config_json = opened.source->generation_config_json();
  if (config.reward_model) set_reward_pad(saved, opened);
  model::save_model(folder, saved);
}

void save_model_folder(const std::filesystem::path& folder, const OpenedModel& opened, const model::Model& model) {
  save_model_folder(folder, opened, model.config,
                    [&model](const std::string& name, int64_t begin, int64_t end, float* out) { model::read_tensor(model, name, begin, end, out); });
}

}  // namespace hone::app
