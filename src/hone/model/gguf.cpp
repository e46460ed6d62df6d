#include "hone/model/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "hone/base/error.h"

namespace hone::model {
namespace {

constexpr int kMaxNesting = 4;            // arrays of arrays
constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's bound
constexpr uint64_t kMaxTensorNameBytes = 256;
constexpr uint32_t kMaxDimensions = 4;
constexpr const char* kTypeNames[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
constexpr size_t kTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // 0: of no fixed size

const char* type_name(GgufType type) { return kTypeNames[static_cast<uint32_t>(type)]; }

// Sequential reader of a mapped file. Each step compares with what is left before it moves.
class Cursor {
 public:
  Cursor(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}
  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }
  const std::string& where() const { return where_; }

  std::string_view take(uint64_t size, const char* what) {
    if (size > left()) fail("{}: truncated or damaged: {} of {} bytes at offset {}, {} are left", where_, what, size, at_, left());
    const std::string_view view = bytes_.substr(at_, size);
    at_ += size;
    return view;
  }
  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::string_view text(const char* what, uint64_t most = std::numeric_limits<uint64_t>::max()) {
    const uint64_t size = number<uint64_t>(what);
    if (size > most) fail("{}: {} of {} bytes at offset {}; at most {} are read", where_, what, size, at_, most);
    return take(size, what);
  }
  /// A count of things that take at least `least` bytes each.
  uint64_t count(const char* what, uint64_t least) {
    const uint64_t value = number<uint64_t>(what);
    bound(value, what, least);
    return value;
  }
  void bound(uint64_t value, const char* what, uint64_t least) const {
    if (value > left() / least) fail("{}: truncated or damaged: {} {} cannot stand in the {} bytes that are left", where_, value, what, left());
  }

 private:
  std::string_view bytes_;
  std::string where_;
  size_t at_ = 0;
};

GgufType read_type(Cursor& cursor, std::string_view key) {
  const uint32_t type = cursor.number<uint32_t>("a type");
  if (type > static_cast<uint32_t>(GgufType::f64)) fail("{}: metadata {}: value type {} is not known", cursor.where(), key, type);
  return static_cast<GgufType>(type);
}

// Walks an array's elements; `value` gets their type and count and, but for nested arrays, their bytes.
void read_array(Cursor& cursor, std::string_view key, int depth, GgufValue* value) {
  if (depth > kMaxNesting) fail("{}: metadata {}: arrays nested more than {} deep", cursor.where(), key, kMaxNesting);
  const GgufType type = read_type(cursor, key);
  const size_t fixed = kTypeBytes[static_cast<uint32_t>(type)];
  const uint64_t least = fixed != 0 ? fixed : type == GgufType::string ? 8 : 12;
  const uint64_t count = cursor.count("array elements", least);
  if (value != nullptr) *value = {GgufType::array, {}, type, count};
  if (fixed != 0) {
    const std::string_view bytes = cursor.take(count * fixed, "an array");
    if (value != nullptr) value->bytes = bytes;
    return;
  }
  Cursor start = cursor;
  for (uint64_t i = 0; i < count; ++i) {
    if (type == GgufType::string) {
      cursor.text("a string");
    } else {
      read_array(cursor, key, depth + 1, nullptr);
    }
  }
  if (value != nullptr) value->bytes = start.take(cursor.at() - start.at(), "an array");
}

GgufValue read_value(Cursor& cursor, std::string_view key) {
  GgufValue value;
  value.type = read_type(cursor, key);
  if (value.type == GgufType::string) {
    value.bytes = cursor.text("a string");
  } else if (value.type == GgufType::array) {
    read_array(cursor, key, 1, &value);
  } else {
    value.bytes = cursor.take(kTypeBytes[static_cast<uint32_t>(value.type)], "a value");
  }
  return value;
}

struct TensorType {
  uint32_t id;
  const char* name;
};
// ggml's numbers of the types that hone does not read, to refuse them by name.
constexpr TensorType kRefusedTypes[] = {{6, "Q5_0"},   {7, "Q5_1"},   {9, "Q8_1"},     {10, "Q2_K"},   {11, "Q3_K"},    {12, "Q4_K"},  {13, "Q5_K"},
                                        {14, "Q6_K"},  {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"},
                                        {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"},  {24, "I8"},     {25, "I16"},     {26, "I32"},   {27, "I64"},
                                        {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},   {35, "TQ2_0"},  {39, "MXFP4"},   {40, "NVFP4"}};

DType tensor_dtype(uint32_t id, const std::string& where) {
  switch (id) {
    case 0:
      return DType::f32;
    case 1:
      return DType::f16;
    case 2:
      return DType::q4_0;
    case 3:
      return DType::q4_1;
    case 8:
      return DType::q8_0;
    case 30:
      return DType::bf16;
  }
  std::string name = fmt::format("number {}", id);
  for (const TensorType& type : kRefusedTypes)
    if (type.id == id) name = type.name;
  fail("{}: tensor type {} is not supported; supported are F32, F16, BF16, Q8_0, Q4_0 and Q4_1", where, name);
}

struct Placed {
  uint64_t offset;
  uint64_t size;
  TensorView view;
};

Placed read_tensor_info(Cursor& cursor, uint64_t alignment) {
  Placed tensor;
  tensor.view.name = std::string(cursor.text("a tensor name", kMaxTensorNameBytes));
  const std::string where = fmt::format("{}: tensor {}", cursor.where(), tensor.view.name);
  const uint32_t dimensions = cursor.number<uint32_t>("a number of dimensions");
  if (dimensions < 1 || dimensions > kMaxDimensions) fail("{}: {} dimensions, 1 to {} are read", where, dimensions, kMaxDimensions);
  for (uint32_t i = 0; i < dimensions; ++i) {
    const uint64_t size = cursor.number<uint64_t>("a dimension");
    if (size < 1 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) fail("{}: dimension {} is out of bounds", where, size);
    tensor.view.shape.insert(tensor.view.shape.begin(), static_cast<int64_t>(size));
  }
  const int64_t elements = checked_elements(tensor.view.shape, where);
  tensor.view.dtype = tensor_dtype(cursor.number<uint32_t>("a tensor type"), where);
  const int64_t block = block_elements(tensor.view.dtype);
  if (tensor.view.shape.back() % block != 0)
    fail("{}: rows of {} elements are not whole {} blocks of {}", where, tensor.view.shape.back(), dtype_name(tensor.view.dtype), block);
  tensor.size = static_cast<uint64_t>(elements / block) * static_cast<uint64_t>(block_bytes(tensor.view.dtype));
  tensor.offset = cursor.number<uint64_t>("a tensor offset");
  if (tensor.offset % alignment != 0) fail("{}: offset {} is no multiple of the alignment {}", where, tensor.offset, alignment);
  return tensor;
}

std::map<std::string, TensorView> read_tensors(Cursor& cursor, uint64_t count, uint64_t alignment, std::span<const std::byte> bytes) {
  std::vector<Placed> placed;
  for (uint64_t i = 0; i < count; ++i) placed.push_back(read_tensor_info(cursor, alignment));
  const uint64_t start = (cursor.at() + alignment - 1) / alignment * alignment;
  const uint64_t available = start <= bytes.size() ? bytes.size() - start : 0;
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
  std::map<std::string, TensorView> tensors;
  uint64_t taken = 0;
  for (Placed& tensor : placed) {
    const std::string name = tensor.view.name;
    if (tensor.offset < taken)
      fail("{}: tensor {} overlaps the one before it (begins at {}, {} is taken)", cursor.where(), name, tensor.offset, taken);
    if (tensor.offset > available || tensor.size > available - tensor.offset)
      fail("{}: truncated: tensor {} needs {} bytes at {} of the data, there are {}", cursor.where(), name, tensor.size, tensor.offset, available);
    tensor.view.bytes = bytes.subspan(start + tensor.offset, tensor.size);
    taken = tensor.offset + tensor.size;
    if (!tensors.emplace(name, std::move(tensor.view)).second) fail("{}: tensor {} stands twice", cursor.where(), name);
  }
  return tensors;
}

template <class T>
T scalar(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

std::optional<int64_t> as_integer(GgufType type, std::string_view bytes) {
  switch (type) {
    case GgufType::u8:
      return scalar<uint8_t>(bytes);
    case GgufType::i8:
      return scalar<int8_t>(bytes);
    case GgufType::u16:
      return scalar<uint16_t>(bytes);
    case GgufType::i16:
      return scalar<int16_t>(bytes);
    case GgufType::u32:
      return scalar<uint32_t>(bytes);
    case GgufType::i32:
      return scalar<int32_t>(bytes);
    case GgufType::i64:
      return scalar<int64_t>(bytes);
    case GgufType::u64: {
      const uint64_t value = scalar<uint64_t>(bytes);
      return value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ? std::optional<int64_t>(static_cast<int64_t>(value)) : std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

[[noreturn]] void wrong_type(const GgufFile& file, const std::string& key, const GgufValue& value, const char* wanted) {
  const std::string found = value.type == GgufType::array ? fmt::format("an array of {}", type_name(value.element_type)) : type_name(value.type);
  fail("{}: metadata {} is {}, {} was expected", file.where(), key, found, wanted);
}

}  // namespace

GgufFile::GgufFile(const std::filesystem::path& path, Parts parts) : file_(path) {
  Cursor cursor(file_.text(), path.string());
  if (file_.text().substr(0, 4) != "GGUF") fail("{}: not a GGUF file (it does not begin with \"GGUF\")", path.string());
  cursor.take(4, "the magic");
  const uint32_t version = cursor.number<uint32_t>("the version");
  if (version == 0x02000000u || version == 0x03000000u) fail("{}: a big-endian GGUF file; only little-endian ones are read", path.string());
  if (version != 2 && version != 3) fail("{}: GGUF version {} is not supported; supported are 2 and 3", path.string(), version);
  const uint64_t tensor_count = cursor.count("tensors", 32);     // name length, dimensions, one dimension, type, offset
  const uint64_t key_count = cursor.count("metadata keys", 13);  // key length, type, one byte
  for (uint64_t i = 0; i < key_count; ++i) {
    const std::string key(cursor.text("a metadata key", kMaxKeyBytes));
    if (!metadata_.emplace(key, read_value(cursor, key)).second) fail("{}: metadata {} stands twice", path.string(), key);
  }
  if (parts == Parts::metadata_only) return;
  if (integer("split.count").value_or(1) > 1) fail("{}: one of several split GGUF files; join them first (llama-gguf-split --merge)", path.string());
  const int64_t alignment = integer("general.alignment").value_or(32);
  if (alignment < 1 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0)
    fail("{}: general.alignment {} is no power of two up to 1048576", path.string(), alignment);
  cursor.bound(tensor_count, "tensors", 32);
  tensors_ = read_tensors(cursor, tensor_count, static_cast<uint64_t>(alignment), file_.bytes());
}

std::optional<int64_t> GgufFile::integer(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  const auto value = as_integer(found->second.type, found->second.bytes);
  if (!value) wrong_type(*this, key, found->second, "a whole number of at most 63 bits");
  return value;
}

std::optional<double> GgufFile::number(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  const GgufValue& value = found->second;
  if (value.type == GgufType::f64) return scalar<double>(value.bytes);
  // The shortest decimal that reads back to the float: 1e-5, not 9.999999747378752e-06, as the file's author wrote it.
  if (value.type == GgufType::f32) return std::stod(fmt::format("{}", scalar<float>(value.bytes)));
  const auto whole = as_integer(value.type, value.bytes);
  if (!whole) wrong_type(*this, key, value, "a number");
  return static_cast<double>(*whole);
}

std::optional<bool> GgufFile::boolean(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  if (found->second.type != GgufType::boolean) wrong_type(*this, key, found->second, "a bool");
  return found->second.bytes[0] != 0;
}

std::optional<std::string> GgufFile::string(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  if (found->second.type != GgufType::string) wrong_type(*this, key, found->second, "a string");
  return std::string(found->second.bytes);
}

std::optional<std::vector<std::string>> GgufFile::strings(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  if (found->second.type != GgufType::array || found->second.element_type != GgufType::string)
    wrong_type(*this, key, found->second, "an array of strings");
  Cursor cursor(found->second.bytes, where() + ": metadata " + key);
  std::vector<std::string> result;
  result.reserve(found->second.count);
  for (uint64_t i = 0; i < found->second.count; ++i) result.emplace_back(cursor.text("a string"));
  return result;
}

std::optional<std::vector<int32_t>> GgufFile::integers(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  const GgufValue& value = found->second;
  const size_t size = kTypeBytes[static_cast<uint32_t>(value.element_type)];
  std::vector<int32_t> result;
  if (value.type != GgufType::array) wrong_type(*this, key, value, "an array of whole numbers");
  result.reserve(value.count);
  for (uint64_t i = 0; i < value.count; ++i) {
    const auto element = size != 0 ? as_integer(value.element_type, value.bytes.substr(i * size, size)) : std::nullopt;
    if (!element || *element < INT32_MIN || *element > INT32_MAX) wrong_type(*this, key, value, "an array of whole numbers of 32 bits");
    result.push_back(static_cast<int32_t>(*element));
  }
  return result;
}

std::optional<std::vector<float>> GgufFile::floats(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return std::nullopt;
  const GgufValue& value = found->second;
  if (value.type != GgufType::array || value.element_type != GgufType::f32) wrong_type(*this, key, value, "an array of f32");
  std::vector<float> result(value.count);
  if (!result.empty()) std::memcpy(result.data(), value.bytes.data(), value.count * sizeof(float));
  return result;
}

}  // namespace hone::model
