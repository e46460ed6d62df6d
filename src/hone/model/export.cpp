#include "hone/model/export.h"

#include "hone/base/error.h"
#include "hone/model/folders.h"
#include "hone/model/json.h"
#include "hone/model/safetensors.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

const char* torch_name(DType dtype) {
  check(block_elements(dtype) == 1, "{} is not saved", dtype_name(dtype));
  return dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "float16";
}

std::string generation_config_text(const SavedModel& model) {
  ordered_json json = ordered_json::object();
  if (!model.generation_config_json.empty()) {
    parse_json_object(model.generation_config_json, "generation_config.json");
    json = ordered_json::parse(model.generation_config_json);
    json.erase("transformers_version");
  }
  const std::vector<int64_t>& ends = model.end_of_turn_ids.empty() ? model.config.eos_token_ids : model.end_of_turn_ids;
  json.erase("_from_model_config");
  if (model.config.bos_token_id >= 0) json["bos_token_id"] = model.config.bos_token_id;
  if (model.config.pad_token_id >= 0) json["pad_token_id"] = model.config.pad_token_id;
  if (ends.size() == 1) {
    json["eos_token_id"] = ends[0];
  } else if (!ends.empty()) {
    json["eos_token_id"] = ends;
  }
  return json.dump(2) + "\n";
}

// Consecutive tensors up to the bound; a tensor larger than the bound has a file of its own, as in transformers.
std::vector<std::vector<TensorSpec>> split_into_shards(const std::vector<TensorSpec>& tensors, DType dtype, int64_t most) {
  std::vector<std::vector<TensorSpec>> shards;
  int64_t size = 0;
  for (const TensorSpec& tensor : tensors) {
    const int64_t bytes = tensor.elements() * block_bytes(dtype);
    if (shards.empty() || size + bytes > most) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().push_back(tensor);
    size += bytes;
  }
  return shards;
}

void write_weights(const fs::path& folder, const SavedModel& model) {
  const auto shards = split_into_shards(expected_tensors(model.config), model.dtype, model.max_shard_bytes);
  ordered_json index;
  index["metadata"]["total_size"] = saved_bytes(model.config, model.dtype);
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::vector<TensorProducer> producers;
    for (const TensorSpec& tensor : shards[i]) {
      const auto produce = [&model, &tensor](int64_t begin, int64_t end, float* out) { model.produce(tensor.name, begin, end, out); };
      producers.push_back({tensor.name, tensor.shape, produce});
      index["weight_map"][tensor.name] = name;
    }
    write_safetensors(folder / name, producers, model.dtype);
  }
  if (shards.size() > 1) write_text_file(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

void write_everything(const fs::path& folder, const SavedModel& model) {
  write_text_file(folder / "config.json", config_to_json(model.config, torch_name(model.dtype)));
  if (!model.config.reward_model) write_text_file(folder / "generation_config.json", generation_config_text(model));
  if (!model.tokenizer_json.empty()) {
    write_text_file(folder / "tokenizer.json", model.tokenizer_json);
    write_text_file(folder / "tokenizer_config.json", tokenizer_config_text(model));
    if (!model.chat_template.empty()) write_text_file(folder / "chat_template.jinja", model.chat_template);
  }
  write_weights(folder, model);
}

}  // namespace

int64_t saved_bytes(const ModelConfig& config, DType dtype) {
  int64_t bytes = 0;
  for (const TensorSpec& tensor : expected_tensors(config)) bytes += tensor.elements() * block_bytes(dtype);
  return bytes;
}

std::string tokenizer_config_text(const SavedModel& model) {
  ordered_json json = ordered_json::object();
  if (!model.tokenizer_config_json.empty()) {
    parse_json_object(model.tokenizer_config_json, "tokenizer_config.json");
    json = ordered_json::parse(model.tokenizer_config_json);
  }
  if (!json.contains("tokenizer_class")) json["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!json.contains("clean_up_tokenization_spaces")) json["clean_up_tokenization_spaces"] = false;
  const std::pair<const char*, const std::string*> tokens[] = {
      {"bos_token", &model.bos_token}, {"eos_token", &model.eos_token}, {"unk_token", &model.unk_token}, {"pad_token", &model.pad_token}};
  for (const auto& [key, text] : tokens)
    if (!text->empty()) json[key] = *text;
  // Also as a file; programs that know only one of the two places read the same template.
  if (!model.chat_template.empty()) json["chat_template"] = model.chat_template;
  return json.dump(2) + "\n";
}

void save_model(const fs::path& folder, const SavedModel& model) {
  validate_config(model.config, folder.string());
  check(static_cast<bool>(model.produce), "save_model: no producer of tensors");
  replace_folder(folder, "config.json", "model", [&](const fs::path& scratch) { write_everything(scratch, model); });
}

}  // namespace hone::model
