#pragma once
// safetensors files: an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes
// without holes. Read through a memory map; every offset is checked at opening, so that reading afterwards cannot leave the file.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hone/base/files.h"
#include "hone/model/dequantize.h"

namespace hone::model {

/// A tensor inside a mapped file. `shape` is rows first; the view lives as long as its file.
struct TensorView {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  int64_t elements() const;
  int64_t rows() const;          // shape[0]; 1 for a scalar
  int64_t row_elements() const;  // elements of one row
};

/// "[576, 1536]", for messages.
std::string shape_text(const std::vector<int64_t>& shape);

/// The product of a shape; UserError naming `where` when a dimension is negative or the product leaves 62 bits.
int64_t checked_elements(const std::vector<int64_t>& shape, const std::string& where);

/// Converts the whole tensor, in parallel; out holds view.elements() floats.
void to_float32(const TensorView& view, float* out);
/// Converts rows [begin, end) only; out holds (end - begin) * row_elements() floats.
void rows_to_float32(const TensorView& view, int64_t begin, int64_t end, float* out);

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// The files of a folder that hold its weights, in order: model.safetensors, else those named by model.safetensors.index.json, else a
/// complete set model-00001-of-0000N.safetensors. UserError naming what was found instead.
struct ShardList {
  std::vector<std::filesystem::path> files;
  std::map<std::string, std::string> weight_map;  // tensor -> file name, from the index; empty without one
};
ShardList find_shards(const std::filesystem::path& folder);

/// A tensor to write. `produce(begin, end, out)` fills rows [begin, end) as float32; it is called with ascending, touching ranges.
struct TensorProducer {
  std::string name;
  std::vector<int64_t> shape;
  std::function<void(int64_t begin, int64_t end, float* out)> produce;
  std::optional<DType> dtype = std::nullopt;  // instead of the file's
};

/// Writes one file with metadata {"format": "pt"}; the header is padded to 8 bytes; holds a few megabytes at a time, never a whole model.
/// UserError (exit 4) when the disk is full. Not atomic by itself: write into a temporary folder.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorProducer> tensors, DType dtype);

}  // namespace hone::model
