#pragma once
// A model ready to run: source, tokenizer, template, weights.
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "hone/adapters/lora.h"
#include "hone/config/run_config.h"
#include "hone/model/decoder.h"
#include "hone/model/export.h"
#include "hone/train/machine.h"
#include "hone/train/row_data.h"
#include "text_model.h"

namespace hone::app {

struct OpenedModel {
  std::unique_ptr<model::ModelSource> source;
  TextModel text;
};

/// Opens and checks the model's files; no weights are read yet. A model with another head than that is refused.
OpenedModel open_checked_model(const config::ModelOptions& options, model::Head head = model::Head::language);

/// How the rows of `files` become tokens of this model; faults are also written to `bad_rows` unless it is empty. Refers to both arguments.
train::RowDataOptions row_options(const config::RunConfig& config, const OpenedModel& opened, const std::vector<std::string>& files,
                                  const std::filesystem::path& bad_rows = {});

/// The storage of the base's linears that --load_in_4bit or --weights asks for.
std::optional<model::Quantisation> quantisation_of(const config::PeftOptions& options);
/// As hone_adapter.json names it: "", "nf4", "nf4+nested", "fp4", "fp4+nested". The blocks of a GGUF file have the values of float32: "".
std::string quantisation_name(const config::PeftOptions& options);
/// "float32" for "".
std::string held_in(const std::string& quantisation);

/// An adapter belongs to the values that it was trained on: where its own note says that the base was in 4 bits then, it is now, as far as
/// the user (`given`: the fields that were set) does not say otherwise.
void follow_adapter(config::RunConfig& config, const std::set<std::string>& given);

/// What --lora_* ask for.
adapters::LoraConfig lora_config(const config::PeftOptions& options, const std::string& base, adapters::Task task = adapters::Task::causal_lm);

/// Reads the weights, in 4 bits where asked for. Without language_head: the body of a reward model (model::load_model).
std::unique_ptr<model::Model> load_weights(const model::ModelSource& source, const train::Machine& machine, const config::PeftOptions& options,
                                           int64_t positions, bool language_head = true);

/// The adapter of --adapter on the loaded model; null without one. Frozen unless it is to be trained. A reward adapter belongs on the body of a
/// reward model, any other on a language model: else it is refused.
std::unique_ptr<adapters::Adapter> load_adapter(model::Model& model, const model::ModelSource& source, const config::PeftOptions& options,
                                                bool trainable);
/// What to hand to a forward.
inline ops::AdapterSet* set_of(const std::unique_ptr<adapters::Adapter>& adapter) { return adapter ? &adapter->set : nullptr; }

/// The adapter directory that PEFT loads, with the tokenizer and the template beside it as PEFT keeps them. Fills the adapter's weights_hash.
void save_adapter_folder(const std::filesystem::path& folder, const OpenedModel& opened, adapters::Adapter& adapter);

/// The tokenizer's part of a model that is to be saved; needs saved.config.
void set_tokenizer(model::SavedModel& saved, const text::Tokenizer& tokenizer, const std::string& chat_template);

/// Writes a model as a folder that transformers opens: the tokenizer and template of the opened one, the tensors from `produce`
/// (model::SavedModel). Of a reward model, as of a reward adapter, the padding token is reward_pad_id.
void save_model_folder(const std::filesystem::path& folder, const OpenedModel& opened, const model::ModelConfig& config,
                       std::function<void(const std::string& name, int64_t begin, int64_t end, float* out)> produce);
void save_model_folder(const std::filesystem::path& folder, const OpenedModel& opened, const model::Model& model);

}  // namespace hone::app
