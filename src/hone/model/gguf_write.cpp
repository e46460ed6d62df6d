#include "hone/model/gguf_write.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <set>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/threads.h"
#include "hone/model/gguf.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kAlignment = 32;          // the format's default: no general.alignment is needed
constexpr int64_t kWriteElements = 1 << 20;  // 4 MB of float32 at a time
constexpr size_t kMaxName = 63;              // ggml's bound on a tensor's name

uint32_t type_number(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0;
    case DType::f16:
      return 1;
    case DType::q8_0:
      return 8;
    case DType::bf16:
      return 30;
    default:
      check(false, "{} is not written to GGUF", dtype_name(dtype));
      return 0;
  }
}

constexpr int64_t kQ8Block = 32;  // elements of a q8_0 block

// A block whose reciprocal overflows is far below what the float16 scale can tell from 0.
bool to_q8_0_block(const float* in, std::byte* out) {
  float most = 0;
  for (int i = 0; i < kQ8Block; ++i) {
    if (!std::isfinite(in[i])) return false;
    most = std::max(most, std::abs(in[i]));
  }
  const float scale = most / 127.0f, reciprocal = scale == 0 ? 0.0f : 1.0f / scale;
  const uint16_t bits = float_to_f16(scale);
  int8_t codes[kQ8Block] = {};
  if (std::isfinite(reciprocal))
    for (int i = 0; i < kQ8Block; ++i) codes[i] = static_cast<int8_t>(std::round(in[i] * reciprocal));
  std::memcpy(out, &bits, 2);
  std::memcpy(out + 2, codes, sizeof codes);
  return bits != 0x7c00u;
}

uint64_t padding(uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

// The header as bytes: metadata and tensor list are small beside the weights.
class Header {
 public:
  template <class T>
  void number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void type(GgufType value) { number(static_cast<uint32_t>(value)); }
  void string(const std::string& value) {
    number(static_cast<uint64_t>(value.size()));
    text_ += value;
  }
  void raw(std::string_view bytes) { text_ += bytes; }
  void pad() { text_.append(padding(text_.size()), '\0'); }
  const std::string& text() const { return text_; }

  void operator()(uint32_t value) { type(GgufType::u32), number(value); }
  void operator()(float value) { type(GgufType::f32), number(value); }
  void operator()(bool value) { type(GgufType::boolean), number(static_cast<uint8_t>(value)); }
  void operator()(const std::string& value) { type(GgufType::string), string(value); }
  void operator()(const std::vector<std::string>& values) {
    type(GgufType::array), type(GgufType::string), number(static_cast<uint64_t>(values.size()));
    for (const std::string& value : values) string(value);
  }
  void operator()(const std::vector<int32_t>& values) {
    type(GgufType::array), type(GgufType::i32), number(static_cast<uint64_t>(values.size()));
    for (const int32_t value : values) number(value);
  }

 private:
  std::string text_;
};

uint64_t stored_bytes(const GgufTensor& tensor) {
  const int64_t block = block_elements(tensor.dtype), elements = checked_elements(tensor.shape, tensor.name);
  check(!tensor.shape.empty() && elements > 0 && tensor.shape.back() % block == 0, "write_gguf: {} of shape {} is not whole blocks of {}",
        tensor.name, shape_text(tensor.shape), dtype_name(tensor.dtype));
  return static_cast<uint64_t>(elements / block * block_bytes(tensor.dtype));
}

std::string header_of(std::span<const GgufEntry> metadata, std::span<const GgufTensor> tensors) {
  Header header;
  header.raw("GGUF");
  header.number(uint32_t{3});
  header.number(static_cast<uint64_t>(tensors.size()));
  header.number(static_cast<uint64_t>(metadata.size()));
  std::set<std::string> names;
  for (const GgufEntry& entry : metadata) {
    check(names.insert(entry.key).second, "write_gguf: metadata {} twice", entry.key);
    header.string(entry.key);
    std::visit(header, entry.value);
  }
  names.clear();
  uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    check(names.insert(tensor.name).second && tensor.name.size() <= kMaxName, "write_gguf: tensor name {} twice or too long", tensor.name);
    header.string(tensor.name);
    header.number(static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) header.number(static_cast<uint64_t>(*size));
    header.number(type_number(tensor.dtype));
    header.number(offset);
    offset += stored_bytes(tensor) + padding(stored_bytes(tensor));
  }
  header.pad();
  return header.text();
}

// Converts `count` values, threaded; false when one does not fit.
bool convert(DType dtype, const std::vector<float>& values, int64_t count, std::byte* out) {
  constexpr int64_t kGrain = 1 << 16;  // elements; whole blocks
  std::atomic<bool> fits{true};
  const int64_t block = block_elements(dtype), bytes = block_bytes(dtype);
  parallel_for((count + kGrain - 1) / kGrain, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kGrain, end = std::min(last * kGrain, count);
    if (!to_gguf(dtype, values.data() + begin, end - begin, out + begin / block * bytes)) fits = false;
  });
  return fits;
}

void write_tensor(FileWriter& writer, const GgufTensor& tensor) {
  const int64_t rows = tensor.shape[0], width = checked_elements(tensor.shape, tensor.name) / rows, group = tensor.row_group;
  check(group > 0 && rows % group == 0, "write_gguf: {} has {} rows, no multiple of {}", tensor.name, rows, group);
  const int64_t block = block_elements(tensor.dtype), step = std::max<int64_t>(1, kWriteElements / (width * group)) * group;
  // A vector is one row of blocks as well as many rows of one element; only whole blocks are converted.
  check(tensor.shape.size() > 1 || block == 1, "write_gguf: the vector {} cannot be {}", tensor.name, dtype_name(tensor.dtype));
  std::vector<float> values;
  std::vector<std::byte> bytes;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(begin + step, rows), count = (end - begin) * width;
    values.resize(static_cast<size_t>(count));
    bytes.resize(static_cast<size_t>(count / block * block_bytes(tensor.dtype)));
    tensor.produce(begin, end, values.data());
    if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }))
      fail("{}: rows {} to {} hold a value that is not finite; the model is damaged", tensor.name, begin, end - 1);
    if (!convert(tensor.dtype, values, count, bytes.data()))
      fail("{}: rows {} to {} hold a value too large for {}; write BF16 instead", tensor.name, begin, end - 1, dtype_name(tensor.dtype));
    writer.write(bytes.data(), bytes.size());
  }
  const std::string zeros(padding(stored_bytes(tensor)), '\0');
  writer.write(zeros);
}

}  // namespace

bool to_gguf(DType dtype, const float* in, int64_t count, std::byte* out) {
  if (dtype != DType::q8_0) return from_float32(dtype, in, count, out);
  check(count % kQ8Block == 0, "to_gguf: {} elements are not whole blocks of {}", count, kQ8Block);
  bool fits = true;
  for (int64_t i = 0; i < count; i += kQ8Block) fits = to_q8_0_block(in + i, out + i / kQ8Block * block_bytes(dtype)) && fits;
  return fits;
}

void write_gguf(const fs::path& path, std::span<const GgufEntry> metadata, std::span<const GgufTensor> tensors) {
  if (fs::exists(fs::symlink_status(path))) fail("{}: something stands there already and is not written over; name another file", path.string());
  const std::string header = header_of(metadata, tensors);
  const fs::path temporary = path.string() + ".writing";  // always the same, so that what a killed process left is used again
  try {
    FileWriter writer(temporary);
    writer.write(header);
    for (const GgufTensor& tensor : tensors) write_tensor(writer, tensor);
    writer.close();
    rename_new(temporary, path);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_folder(path.parent_path());
}

}  // namespace hone::model
