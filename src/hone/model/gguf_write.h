#pragma once
// GGUF version 3, little-endian, written: a few megabytes at a time, never a whole model, and whole or not at all under its name.
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "hone/model/dequantize.h"

namespace hone::model {

/// Metadata to write; the alternatives are the types that llama.cpp's converter uses for what hone writes.
using GgufData = std::variant<uint32_t, float, bool, std::string, std::vector<std::string>, std::vector<int32_t>>;
struct GgufEntry {
  std::string key;
  GgufData value;
};

/// A tensor to write. `produce(begin, end, out)` fills rows [begin, end) as float32; it is called with ascending, touching ranges whose
/// borders are multiples of row_group (a divisor of the rows).
struct GgufTensor {
  std::string name;
  std::vector<int64_t> shape;  // rows first; the file has them turned round
  DType dtype = DType::f32;    // f32, f16, bf16 or q8_0
  int64_t row_group = 1;
  std::function<void(int64_t begin, int64_t end, float* out)> produce;
};

/// from_float32 for what GGUF stores: f32, f16, bf16 and q8_0 (whole blocks). False when a finite value overflows float16, as the scale of a
/// q8_0 block also can, or when such a block has a value that is not finite. q8_0 is llama.cpp's reference quantiser: scale = max |x| / 127,
/// codes = x * (1 / scale) in float32, rounded to nearest with halves away from zero; only then is the scale rounded to float16.
bool to_gguf(DType dtype, const float* in, int64_t count, std::byte* out);

/// Writes the file under a temporary name beside it, syncs and renames. UserError: something stands at `path` already (exit 2: nothing is
/// written over), a value that the type cannot hold or that is not finite (exit 2), a full disk (exit 4). Nothing is left then.
void write_gguf(const std::filesystem::path& path, std::span<const GgufEntry> metadata, std::span<const GgufTensor> tensors);

}  // namespace hone::model
