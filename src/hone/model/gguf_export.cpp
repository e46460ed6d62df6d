#include "hone/model/gguf_export.h"

#include <algorithm>

#include "hone/base/error.h"
#include "hone/base/log.h"
#include "hone/model/gguf_names.h"
#include "hone/model/gguf_write.h"
#include "hone/text/gguf_vocabulary.h"

namespace hone::model {
namespace {

// llama.cpp's numbers of what a file mostly holds.
uint32_t file_type(DType dtype) { return dtype == DType::f32 ? 0 : dtype == DType::f16 ? 1 : dtype == DType::q8_0 ? 7 : 32; }

void add_count(std::vector<GgufEntry>& metadata, const std::string& key, int64_t value) {
  check(value >= 0 && value <= int64_t{UINT32_MAX}, "save_gguf: {} is {}", key, value);
  metadata.push_back({key, static_cast<uint32_t>(value)});
}

void add_architecture(std::vector<GgufEntry>& metadata, const ModelConfig& config) {
  add_count(metadata, "llama.block_count", config.num_hidden_layers);
  add_count(metadata, "llama.context_length", config.max_position_embeddings);
  add_count(metadata, "llama.embedding_length", config.hidden_size);
  add_count(metadata, "llama.feed_forward_length", config.intermediate_size);
  add_count(metadata, "llama.attention.head_count", config.num_attention_heads);
  add_count(metadata, "llama.attention.head_count_kv", config.num_key_value_heads);
  add_count(metadata, "llama.attention.key_length", config.head_dim);
  add_count(metadata, "llama.attention.value_length", config.head_dim);
  metadata.push_back({"llama.attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps)});
  metadata.push_back({"llama.rope.freq_base", static_cast<float>(config.rope_theta)});
  add_count(metadata, "llama.rope.dimension_count", config.head_dim);
  add_count(metadata, "llama.vocab_size", config.vocab_size);
}

// The tokens that end a text, the tokenizer's first. The format has room for two.
std::vector<int64_t> end_tokens(const ModelConfig& config, const text::GgufVocabulary* vocabulary) {
  std::vector<int64_t> ends;
  if (vocabulary != nullptr && vocabulary->eos >= 0) ends.push_back(vocabulary->eos);
  for (const int64_t id : config.eos_token_ids)
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  if (ends.size() > 2) {
    log_warning("GGUF holds two end tokens (eos and eot); of {} the ids {} are left out", ends.size(), fmt::join(ends.begin() + 2, ends.end(), ", "));
    ends.resize(2);
  }
  return ends;
}

void add_tokenizer(std::vector<GgufEntry>& metadata, const ModelConfig& config, const text::GgufVocabulary* vocabulary) {
  const std::string prefix = "tokenizer.ggml.";
  metadata.push_back({prefix + "model", vocabulary != nullptr ? vocabulary->model : std::string("none")});
  if (vocabulary != nullptr) {
    check(static_cast<int64_t>(vocabulary->tokens.size()) == config.vocab_size, "save_gguf: {} tokens for a vocabulary of {}",
          vocabulary->tokens.size(), config.vocab_size);
    metadata.push_back({prefix + "pre", vocabulary->pre});
    metadata.push_back({prefix + "tokens", vocabulary->tokens});
    metadata.push_back({prefix + "token_type", vocabulary->token_types});
    metadata.push_back({prefix + "merges", vocabulary->merges});
    metadata.push_back({prefix + "add_bos_token", vocabulary->add_bos});
    metadata.push_back({prefix + "add_space_prefix", false});
  }
  const auto either = [](int64_t first, int64_t second) { return first >= 0 ? first : second; };
  const auto add_id = [&](const char* key, int64_t id) {
    if (id >= 0) add_count(metadata, prefix + key, id);
  };
  add_id("bos_token_id", either(vocabulary != nullptr ? vocabulary->bos : -1, config.bos_token_id));
  const std::vector<int64_t> ends = end_tokens(config, vocabulary);
  if (!ends.empty()) add_id("eos_token_id", ends[0]);
  if (ends.size() > 1) add_id("eot_token_id", ends[1]);
  if (vocabulary != nullptr) add_id("unknown_token_id", vocabulary->unk);
  add_id("padding_token_id", either(vocabulary != nullptr ? vocabulary->pad : -1, config.pad_token_id));
  if (vocabulary != nullptr && !vocabulary->chat_template.empty()) metadata.push_back({"tokenizer.chat_template", vocabulary->chat_template});
}

GgufTensor tensor_of(const SavedGguf& model, const TensorSpec& spec) {
  GgufTensor tensor{gguf_name(spec.name), spec.shape, gguf_dtype(spec, model.dtype), 1, {}};
  if (!is_interleaved(spec.name)) {
    tensor.produce = [&model, name = spec.name](int64_t begin, int64_t end, float* out) { model.produce(name, begin, end, out); };
    return tensor;
  }
  tensor.row_group = model.config.head_dim;  // rows change places within their head
  tensor.produce = [&model, spec](int64_t begin, int64_t end, float* out) {
    const int64_t width = spec.elements() / spec.shape[0];
    std::vector<float> rows(static_cast<size_t>((end - begin) * width));
    model.produce(spec.name, begin, end, rows.data());
    for (int64_t row = begin; row < end; ++row)
      std::copy_n(rows.data() + (row - begin) * width, width, out + (interleaved_row(row, model.config.head_dim) - begin) * width);
  };
  return tensor;
}

}  // namespace

DType gguf_dtype(const TensorSpec& tensor, DType wanted) {
  if (tensor.shape.size() == 1) return DType::f32;
  return tensor.shape.back() % block_elements(wanted) == 0 ? wanted : DType::f16;
}

int64_t gguf_bytes(const ModelConfig& config, DType dtype) {
  int64_t bytes = 0;
  for (const TensorSpec& tensor : expected_tensors(config)) {
    const DType stored = gguf_dtype(tensor, dtype);
    bytes += tensor.elements() / block_elements(stored) * block_bytes(stored);
  }
  return bytes;
}

void save_gguf(const std::filesystem::path& path, const SavedGguf& model) {
  validate_config(model.config, path.string());
  check(static_cast<bool>(model.produce), "save_gguf: no producer of tensors");
  check(model.config.architecture == "llama", "save_gguf: architecture {}", model.config.architecture);
  std::vector<GgufEntry> metadata{{"general.architecture", std::string("llama")}, {"general.type", std::string("model")}};
  metadata.push_back({"general.name", model.name});
  metadata.push_back({"general.file_type", file_type(model.dtype)});
  metadata.push_back({"general.quantization_version", uint32_t{2}});  // of ggml's block formats
  add_architecture(metadata, model.config);
  add_tokenizer(metadata, model.config, model.vocabulary);
  std::vector<GgufTensor> tensors;
  for (const TensorSpec& spec : expected_tensors(model.config)) tensors.push_back(tensor_of(model, spec));
  write_gguf(path, metadata, tensors);
}

}  // namespace hone::model
