#include "hone/model/safetensors.h"

#include <algorithm>
#include <cstring>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/model/json.h"

namespace hone::model {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the reference implementation's bound
constexpr size_t kMaxDimensions = 8;

struct Placed {
  uint64_t begin, end;
  TensorView view;
};

DType parse_dtype(const std::string& name, const std::string& where) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::u8})
    if (name == dtype_name(dtype)) return dtype;
  fail("{}: dtype {} is not supported; supported are F32, F16, BF16 and U8", where, name);
}

uint64_t parse_count(const nlohmann::json& value, const std::string& where, const char* what) {
  if (!value.is_number_unsigned()) fail("{}: {} must be whole numbers of at least 0, found {}", where, what, value.dump());
  return value.get<uint64_t>();
}

Placed parse_entry(const std::string& name, const nlohmann::json& entry, const std::string& file) {
  const std::string where = fmt::format("{}: tensor {}", file, name);
  if (!entry.is_object()) fail("{}: an object was expected, found {}", where, entry.type_name());
  const auto field = [&](const char* key, nlohmann::json::value_t type) -> const nlohmann::json& {
    const auto found = entry.find(key);
    if (found == entry.end() || found->type() != type) fail("{}: the field \"{}\" is missing or of the wrong type", where, key);
    return *found;
  };
  Placed placed;
  placed.view.name = name;
  placed.view.dtype = parse_dtype(field("dtype", nlohmann::json::value_t::string).get<std::string>(), where);
  const auto& shape = field("shape", nlohmann::json::value_t::array);
  if (shape.size() > kMaxDimensions) fail("{}: {} dimensions, at most {} are read", where, shape.size(), kMaxDimensions);
  for (const auto& dimension : shape) {
    const uint64_t value = parse_count(dimension, where, "the dimensions of a shape");
    if (value > static_cast<uint64_t>(INT64_MAX)) fail("{}: dimension {} is too large", where, value);
    placed.view.shape.push_back(static_cast<int64_t>(value));
  }
  const auto& offsets = field("data_offsets", nlohmann::json::value_t::array);
  if (offsets.size() != 2) fail("{}: data_offsets has {} numbers, 2 were expected", where, offsets.size());
  placed.begin = parse_count(offsets[0], where, "data_offsets");
  placed.end = parse_count(offsets[1], where, "data_offsets");
  if (placed.end < placed.begin) fail("{}: data_offsets [{}, {}] run backwards", where, placed.begin, placed.end);
  const uint64_t wanted = static_cast<uint64_t>(checked_elements(placed.view.shape, where)) * static_cast<uint64_t>(block_bytes(placed.view.dtype));
  if (placed.end - placed.begin != wanted)
    fail("{}: {} of shape {} takes {} bytes, data_offsets give {}", where, dtype_name(placed.view.dtype), shape_text(placed.view.shape), wanted,
         placed.end - placed.begin);
  return placed;
}

}  // namespace

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}
int64_t TensorView::rows() const { return shape.empty() ? 1 : shape[0]; }
int64_t TensorView::row_elements() const {
  int64_t count = 1;
  for (size_t i = 1; i < shape.size(); ++i) count *= shape[i];
  return count;
}

std::string shape_text(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

int64_t checked_elements(const std::vector<int64_t>& shape, const std::string& where) {
  // 2^58 elements of at most 8 bytes stay inside 62 bits. Zeros do not excuse an overflow of the other dimensions.
  constexpr int64_t kMost = int64_t{1} << 58;
  int64_t product = 1;
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension < 0) fail("{}: shape {} has a negative dimension", where, shape_text(shape));
    empty = empty || dimension == 0;
    if (dimension != 0 && product > kMost / dimension) fail("{}: shape {} is too large", where, shape_text(shape));
    product *= std::max<int64_t>(dimension, 1);
  }
  return empty ? 0 : product;
}

void rows_to_float32(const TensorView& view, int64_t begin, int64_t end, float* out) {
  const int64_t width = view.row_elements(), block = block_elements(view.dtype);
  check(0 <= begin && begin <= end && end <= view.rows(), "rows [{}, {}) of {}, shape {}", begin, end, view.name, shape_text(view.shape));
  check(width % block == 0, "rows of {} ({} elements) are not whole {} blocks", view.name, width, dtype_name(view.dtype));
  const int64_t row_bytes = width / block * block_bytes(view.dtype);
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(width, 1));
  parallel_for(end - begin, grain, [&](int64_t first, int64_t last) {
    to_float32(view.dtype, view.bytes.data() + (begin + first) * row_bytes, (last - first) * width, out + first * width);
  });
}

void to_float32(const TensorView& view, float* out) { rows_to_float32(view, 0, view.rows(), out); }

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string where = path.string();
  const auto bytes = file_.bytes();
  if (bytes.size() < 8) fail("{}: {} bytes are too few for a safetensors file", where, bytes.size());
  uint64_t header_size;
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > kMaxHeader)
    fail("{}: a header of {} bytes is not plausible (at most {}); is this a safetensors file?", where, header_size, kMaxHeader);
  if (header_size > bytes.size() - 8)
    fail("{}: truncated: the header has {} bytes, the file has {} after its length", where, header_size, bytes.size() - 8);
  const nlohmann::json header = parse_json_object(file_.text().substr(8, header_size), where + ": header", 8);
  const auto data = bytes.subspan(8 + header_size);

  std::vector<Placed> placed;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      placed.push_back(parse_entry(name, entry, where));
      continue;
    }
    if (!entry.is_object()) fail("{}: __metadata__ must be an object of strings", where);
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) fail("{}: __metadata__ must be an object of strings; \"{}\" is not a string", where, key);
      metadata_[key] = value.get<std::string>();
    }
  }
  // The format allows no holes and no overlap: each tensor begins where the one before it ends.
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t expected = 0;
  for (Placed& tensor : placed) {
    if (tensor.begin < expected)
      fail("{}: tensor {} overlaps the one before it (begins at {}, {} is taken)", where, tensor.view.name, tensor.begin, expected);
    if (tensor.begin > expected) fail("{}: a hole of {} bytes before tensor {}", where, tensor.begin - expected, tensor.view.name);
    if (tensor.end > data.size())
      fail("{}: truncated: tensor {} ends at byte {} of the data, there are {}", where, tensor.view.name, tensor.end, data.size());
    tensor.view.bytes = data.subspan(tensor.begin, tensor.end - tensor.begin);
    expected = tensor.end;
    const std::string name = tensor.view.name;
    tensors_.emplace(name, std::move(tensor.view));
  }
  if (expected != data.size()) fail("{}: {} bytes stand after the last tensor", where, data.size() - expected);
}

}  // namespace hone::model
