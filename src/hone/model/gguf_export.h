#pragma once
// A llama model as one GGUF file with the names, row order and metadata of llama.cpp's converter.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "hone/model/config.h"
#include "hone/model/dequantize.h"

namespace hone::text {
struct GgufVocabulary;
}

namespace hone::model {

struct SavedGguf {
  ModelConfig config;
  std::string name;  // general.name
  /// Fills rows [begin, end) of the tensor with this Hugging Face name as float32, half-split Q/K order.
  std::function<void(const std::string& name, int64_t begin, int64_t end, float* out)> produce;
  const text::GgufVocabulary* vocabulary = nullptr;  // null: a file without a tokenizer
  DType dtype = DType::f16;                          // of the matrices: f32, f16, bf16 or q8_0
};

/// Vectors are always F32, and a matrix whose rows are not whole blocks of q8_0 is F16, as llama.cpp's converter does.
DType gguf_dtype(const TensorSpec& tensor, DType wanted);

/// Bytes of the weights that save_gguf will write, for the check of disk space.
int64_t gguf_bytes(const ModelConfig& config, DType dtype);

/// Writes the file as write_gguf does: whole or not at all, never over anything.
void save_gguf(const std::filesystem::path& path, const SavedGguf& model);

}  // namespace hone::model
