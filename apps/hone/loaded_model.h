#pragma once
// A model ready to run: source, tokenizer, template, weights.
#include <memory>

#include "hone/model/decoder.h"
#include "hone/train/machine.h"
#include "text_model.h"

namespace hone::app {

struct OpenedModel {
  std::unique_ptr<model::ModelSource> source;
  TextModel text;
};

/// Opens and checks the model's files; no weights are read yet.
OpenedModel open_checked_model(const config::ModelOptions& options);

/// Reads the weights.
std::unique_ptr<model::Model> load_weights(const OpenedModel& opened, const train::Machine& machine, int64_t positions);

/// Writes the model as a folder that transformers opens.
void save_model_folder(const std::filesystem::path& folder, const OpenedModel& opened, const model::Model& model);

}  // namespace hone::app
