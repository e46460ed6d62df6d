// Finding the files of a folder's weights, and writing one file.
#include <algorithm>
#include <cstring>
#include <regex>
#include <set>

#include "hone/base/error.h"
#include "hone/model/json.h"
#include "hone/model/safetensors.h"

namespace hone::model {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kWriteElements = 1 << 20;  // 4 MB of float32 at a time

ShardList from_index(const fs::path& folder, const fs::path& index) {
  const nlohmann::json json = parse_json_object(read_text(index, size_t{1} << 28), index.string(), 16);
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) fail("{}: no \"weight_map\" object with tensor names", index.string());
  ShardList list;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) fail("{}: weight_map: the file of {} is not a string", index.string(), tensor);
    const std::string name = file.get<std::string>();
    // A name out of a file must not lead out of the folder.
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos || name == "..")
      fail("{}: weight_map names \"{}\", a file name without folders was expected", index.string(), name);
    list.weight_map[tensor] = name;
    names.insert(name);
  }
  for (const std::string& name : names) {
    if (!fs::exists(folder / name)) fail("{}: {} is named by {} and is missing", folder.string(), name, index.filename().string());
    list.files.push_back(folder / name);
  }
  return list;
}

ShardList from_numbered_files(const fs::path& folder) {
  static const std::regex pattern("model-([0-9]{5})-of-([0-9]{5})\\.safetensors");
  std::set<int> numbers;
  int total = 0;
  std::string other;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    std::smatch match;
    if (std::regex_match(name, match, pattern)) {
      const int count = std::stoi(match[2]);
      if (total != 0 && count != total) fail("{}: weight files of two sets ({} and {} files); keep one", folder.string(), total, count);
      total = count;
      numbers.insert(std::stoi(match[1]));
    } else if (name == "adapter_config.json" || name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt") ||
               name.ends_with(".gguf") || name.ends_with(".safetensors")) {
      other = other.empty() || name == "adapter_config.json" ? name : other;
    }
  }
  if (numbers.empty()) {
    const std::string hint = other == "adapter_config.json"    ? " This is an adapter: name its base with --model and this folder with --adapter."
                             : other.ends_with(".gguf")        ? fmt::format(" Name the file itself: {}.", (folder / other).string())
                             : other.ends_with(".safetensors") ? fmt::format(" {} is not under the name that transformers gives.", other)
                             : !other.empty() ? fmt::format(" {} holds pickled Python objects, which are not read; save it as safetensors.", other)
                                              : "";
    fail("{}: no weights: model.safetensors or model.safetensors.index.json was expected.{}", folder.string(), hint);
  }
  ShardList list;
  for (int i = 1; i <= total; ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i, total);
    if (!numbers.count(i)) fail("{}: {} is missing ({} of {} weight files are there)", folder.string(), name, numbers.size(), total);
    list.files.push_back(folder / name);
  }
  return list;
}

}  // namespace

ShardList find_shards(const fs::path& folder) {
  if (fs::exists(folder / "model.safetensors")) return {{folder / "model.safetensors"}, {}};
  if (fs::exists(folder / "model.safetensors.index.json")) return from_index(folder, folder / "model.safetensors.index.json");
  return from_numbered_files(folder);
}

void write_safetensors(const fs::path& path, std::span<const TensorProducer> tensors, DType dtype) {
  nlohmann::ordered_json header;
  header["__metadata__"]["format"] = "pt";
  int64_t offset = 0;
  for (const TensorProducer& tensor : tensors) {
    const DType own = tensor.dtype.value_or(dtype);
    check(block_elements(own) == 1, "write_safetensors: {} is not written", dtype_name(own));
    const int64_t end = offset + checked_elements(tensor.shape, tensor.name) * block_bytes(own);
    check(!header.contains(tensor.name), "write_safetensors: tensor {} twice", tensor.name);
    header[tensor.name] = {{"dtype", dtype_name(own)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins at a multiple of 8
  const uint64_t size = text.size();

  FileWriter writer(path);
  writer.write(&size, 8);
  writer.write(text);
  std::vector<float> values;
  std::vector<std::byte> bytes;
  for (const TensorProducer& tensor : tensors) {
    const DType own = tensor.dtype.value_or(dtype);
    const TensorView view{tensor.name, own, tensor.shape, {}};
    const int64_t width = view.row_elements(), step = std::max<int64_t>(1, kWriteElements / std::max<int64_t>(width, 1));
    for (int64_t begin = 0; view.elements() > 0 && begin < view.rows(); begin += step) {
      const int64_t end = std::min(begin + step, view.rows()), count = (end - begin) * width;
      values.resize(static_cast<size_t>(count));
      bytes.resize(static_cast<size_t>(count * block_bytes(own)));
      tensor.produce(begin, end, values.data());
      if (!from_float32(own, values.data(), count, bytes.data()))
        fail("{}: rows {} to {} hold a value that {} cannot (its greatest is 65504 for F16, 255 for U8); save as float32 or bfloat16", tensor.name,
             begin, end - 1, dtype_name(own));
      writer.write(bytes.data(), bytes.size());
    }
  }
  writer.close();
}

}  // namespace hone::model
