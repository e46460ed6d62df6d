#include "hone/model/quantized_source.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hone/base/error.h"
#include "hone/base/threads.h"
#include "hone/model/json.h"

namespace hone::model {
namespace {

using kernels::kNestedBlock;
using kernels::kQuantBlock;
using Views = std::map<std::string, const TensorView*>;

constexpr std::string_view kState = ".quant_state.bitsandbytes__";
constexpr int64_t kMaxState = 1 << 16;
constexpr int64_t kMapSize = 16, kNestedMapSize = 256;
constexpr int64_t kSlice = 1 << 16;  // elements that one thread dequantises at a time

int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

/// Takes a tensor of this type and number of elements out of `views`.
const TensorView& take_tensor(Views& views, const std::string& name, DType dtype, int64_t elements, const std::string& where) {
  const auto found = views.find(name);
  if (found == views.end()) fail("{}: tensor {} is missing beside the 4-bit weight", where, name);
  const TensorView& view = *found->second;
  if (view.dtype != dtype || view.elements() != elements)
    fail("{}: tensor {} is {} of shape {}; {} with {} elements was expected", where, name, dtype_name(view.dtype), shape_text(view.shape),
         dtype_name(dtype), elements);
  views.erase(found);
  return view;
}

std::vector<float> floats(const TensorView& view) {
  std::vector<float> values(static_cast<size_t>(view.elements()));
  if (!values.empty()) std::memcpy(values.data(), view.bytes.data(), values.size() * sizeof(float));
  return values;
}

void require_finite(const std::vector<float>& values, const std::string& name, const std::string& where) {
  for (const float value : values)
    if (!std::isfinite(value)) fail("{}: tensor {} holds a value that is not finite", where, name);
}

std::vector<int64_t> read_shape(const JsonFields& state) {
  const nlohmann::json* value = state.find("shape");
  if (value == nullptr || !value->is_array() || value->size() != 2) fail("{}: shape is no list of two numbers", state.where);
  std::vector<int64_t> shape;
  for (const nlohmann::json& dimension : *value) {
    shape.push_back(state.as_integer("shape", dimension));
    if (shape.back() < 1) fail("{}: shape {} is not positive", state.where, value->dump());
  }
  return shape;
}

void require(const JsonFields& state, const char* key, int64_t wanted) {
  if (const int64_t found = state.integer(key); found != wanted) fail("{}: {} {} is not supported; supported is {}", state.where, key, found, wanted);
}

const uint8_t* as_bytes(std::span<const std::byte> bytes) { return reinterpret_cast<const uint8_t*>(bytes.data()); }

}  // namespace

QuantizedTensors::Stored QuantizedTensors::read(const std::string& name, const std::string& state_name, Views& views, const std::string& where) {
  const TensorView& state_view = *views.at(state_name);
  if (state_view.dtype != DType::u8 || state_view.elements() > kMaxState)
    fail("{}: tensor {} is no text of at most {} bytes", where, state_name, kMaxState);
  const std::string text(reinterpret_cast<const char*>(state_view.bytes.data()), state_view.bytes.size());
  views.erase(state_name);
  Stored stored;
  stored.where = where;
  const std::string state_where = fmt::format("{}: {}", where, state_name), type = state_name.substr(name.size() + kState.size());
  const nlohmann::json object = parse_json_object(text, state_where, 8);
  const JsonFields state{object, state_where};
  if (type != "nf4" && type != "fp4") fail("{}: type {} is not supported; supported are nf4 and fp4", state_where, type);
  if (state.string("quant_type", "") != type)
    fail("{}: quant_type is {}, but the tensor's name says {}", state_where, state.string("quant_type", ""), type);
  stored.type = type == "nf4" ? kernels::QuantType::nf4 : kernels::QuantType::fp4;
  require(state, "blocksize", kQuantBlock);
  TensorView shape{name, DType::f32, read_shape(state), {}};
  const int64_t count = checked_elements(shape.shape, state_where), block_count = blocks(count, kQuantBlock);
  stored.codes = take_tensor(views, name, DType::u8, (count + 1) / 2, where).bytes;
  const std::vector<float> map = floats(take_tensor(views, name + ".quant_map", DType::f32, kMapSize, where));
  if (!std::equal(map.begin(), map.end(), kernels::quant_map(stored.type)))
    fail("{}: tensor {}.quant_map holds other values than those of {}; only bitsandbytes' own are supported", where, name, type);
  stored.nested = state.find("nested_blocksize") != nullptr || views.count(name + ".nested_absmax") != 0;
  stored.absmax = take_tensor(views, name + ".absmax", stored.nested ? DType::u8 : DType::f32, block_count, where).bytes;
  if (stored.nested) {
    require(state, "nested_blocksize", kNestedBlock);
    if (state.string("nested_dtype", "float32") != "float32")
      fail("{}: nested_dtype {} is not supported; supported is float32", state_where, state.string("nested_dtype", ""));
    stored.offset = static_cast<float>(state.number("nested_offset", NAN));
    if (!std::isfinite(stored.offset)) fail("{}: nested_offset is missing or not finite", state_where);
    stored.nested_absmax = floats(take_tensor(views, name + ".nested_absmax", DType::f32, blocks(block_count, kNestedBlock), where));
    stored.nested_map = floats(take_tensor(views, name + ".nested_quant_map", DType::f32, kNestedMapSize, where));
    require_finite(stored.nested_absmax, name + ".nested_absmax", where);
    require_finite(stored.nested_map, name + ".nested_quant_map", where);
  }
  shapes_.emplace(name, std::move(shape));
  return stored;
}

void QuantizedTensors::take(Views& views, const std::string& where) {
  std::vector<std::pair<std::string, std::string>> found;  // the weight, its quant_state
  for (const auto& [name, view] : views)
    if (const size_t at = name.find(kState); at != std::string::npos) found.emplace_back(name.substr(0, at), name);
  for (const auto& [name, state_name] : found) {
    if (stored_.count(name)) fail("{}: tensor {} has two quantisation states", where, name);
    stored_.emplace(name, read(name, state_name, views, where));
  }
}

std::vector<float> QuantizedTensors::absmax_of(const Stored& stored, int64_t begin, int64_t end) {
  std::vector<float> values(static_cast<size_t>(end - begin));
  if (!stored.nested) {
    std::memcpy(values.data(), stored.absmax.data() + begin * 4, values.size() * sizeof(float));
    return values;
  }
  // From the border of the nested block, which the kernel counts from.
  const int64_t start = begin / kNestedBlock * kNestedBlock;
  std::vector<float> all(static_cast<size_t>(end - start));
  kernels::dequantize_nested(as_bytes(stored.absmax) + start, stored.nested_absmax.data() + start / kNestedBlock, stored.offset,
                             stored.nested_map.data(), end - start, all.data());
  std::copy(all.begin() + (begin - start), all.end(), values.begin());
  return values;
}

QuantizedTensor QuantizedTensors::get(const std::string& name) const {
  const Stored& stored = stored_.at(name);
  QuantizedTensor tensor{stored.codes, absmax_of(stored, 0, blocks(shapes_.at(name).elements(), kQuantBlock)), stored.type};
  require_finite(tensor.absmax, name + ".absmax", stored.where);
  return tensor;
}

void QuantizedTensors::load_rows(const std::string& name, int64_t begin, int64_t end, float* out) const {
  const Stored& stored = stored_.at(name);
  const TensorView& shape = shapes_.at(name);
  check(0 <= begin && begin <= end && end <= shape.rows(), "rows [{}, {}) of {}, shape {}", begin, end, name, shape_text(shape.shape));
  const int64_t first = begin * shape.row_elements(), last = end * shape.row_elements();
  // Slices begin at borders of blocks of the flattened tensor, which rows need not do.
  const int64_t origin = first / kQuantBlock * kQuantBlock, slices = blocks(last - origin, kSlice);
  parallel_for(slices, 1, [&](int64_t slice_begin, int64_t slice_end) {
    std::vector<float> values(static_cast<size_t>(std::min(kSlice, last - origin)));
    for (int64_t slice = slice_begin; slice < slice_end; ++slice) {
      const int64_t from = origin + slice * kSlice, to = std::min(from + kSlice, last), wanted = std::max(from, first);
      const std::vector<float> absmax = absmax_of(stored, from / kQuantBlock, blocks(to, kQuantBlock));
      kernels::dequantize_4bit(as_bytes(stored.codes) + from / 2, absmax.data(), to - from, stored.type, values.data());
      std::copy(values.begin() + (wanted - from), values.begin() + (to - from), out + (wanted - first));
    }
  });
}

}  // namespace hone::model
