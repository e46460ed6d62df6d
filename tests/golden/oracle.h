#pragma once
// Reads the oracle.safetensors files of tests/golden (make_golden.py says what stands in them). hone's own reader takes no float64 or int32.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace hone::golden {

/// A tensor of any of the oracle's types (F64, F32, I32), as float64.
struct OracleTensor {
  std::vector<int64_t> shape;
  std::vector<double> values;
};

/// A folder of the golden fixtures: golden_path("models/chat").
inline std::filesystem::path golden_path(const std::string& name) { return std::filesystem::path(HONE_SOURCE_DIR) / "tests" / "golden" / name; }

template <typename T>
inline std::vector<double> oracle_values(const std::string& bytes) {
  std::vector<double> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = static_cast<double>(value);
  }
  return values;
}

/// All tensors of a file by name. Throws std::runtime_error for a file that is missing, cut or of another type.
inline std::map<std::string, OracleTensor> read_oracle(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  uint64_t header_size = 0;
  if (!in.read(reinterpret_cast<char*>(&header_size), sizeof header_size) || header_size > (1u << 20)) {
    throw std::runtime_error("cannot read the oracle " + path.string());
  }
  std::string header(header_size, '\0');
  in.read(header.data(), static_cast<std::streamsize>(header_size));
  std::map<std::string, OracleTensor> tensors;
  const auto entries = nlohmann::json::parse(header);
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry.at("data_offsets").at(0).get<uint64_t>();
    std::string bytes(entry.at("data_offsets").at(1).get<uint64_t>() - begin, '\0');
    in.seekg(static_cast<std::streamoff>(sizeof header_size + header_size + begin));
    if (!in.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) throw std::runtime_error(path.string() + " ends inside " + name);
    const auto type = entry.at("dtype").get<std::string>();
    OracleTensor& tensor = tensors[name];
    tensor.shape = entry.at("shape").get<std::vector<int64_t>>();
    if (type == "F64") {
      tensor.values = oracle_values<double>(bytes);
    } else if (type == "F32") {
      tensor.values = oracle_values<float>(bytes);
    } else if (type == "I32") {
      tensor.values = oracle_values<int32_t>(bytes);
    } else {
      throw std::runtime_error(path.string() + ": " + name + " has the type " + type);
    }
  }
  return tensors;
}

}  // namespace hone::golden
