#pragma once
// Files made by hand, broken where a test wants them broken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "hone/base/error.h"

namespace hone::model {

/// A folder that goes away with the test.
struct ScratchFolder {
  std::filesystem::path path;
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hone-model-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

inline std::filesystem::path fixture(const std::string& name) { return std::filesystem::path(HONE_SOURCE_DIR) / "tests/model/fixtures" / name; }

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path.string());
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <class T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// A safetensors file: length, header, data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) { return raw(uint64_t{header.size()}) + header + data; }

/// The parts of a GGUF file in its order.
inline std::string gguf_string(const std::string& text) { return raw(uint64_t{text.size()}) + text; }
inline std::string gguf_header(uint64_t tensors, uint64_t keys, uint32_t version = 3) { return "GGUF" + raw(version) + raw(tensors) + raw(keys); }
inline std::string gguf_u32(const std::string& key, uint32_t value) { return gguf_string(key) + raw(uint32_t{4}) + raw(value); }
inline std::string gguf_tensor(const std::string& name, const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset) {
  std::string bytes = gguf_string(name) + raw(static_cast<uint32_t>(dimensions.size()));
  for (const uint64_t dimension : dimensions) bytes += raw(dimension);
  return bytes + raw(type) + raw(offset);
}
inline std::string pad_to(std::string bytes, size_t alignment) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
  return bytes;
}

/// Runs `action`, which must throw a UserError with exit code 2 whose message has every part of `parts`.
inline void expect_refused(const std::function<void()>& action, const std::vector<std::string>& parts, const std::string& what) {
  try {
    action();
  } catch (const UserError& error) {
    EXPECT_EQ(static_cast<int>(error.code()), 2) << what;
    for (const std::string& part : parts) EXPECT_THAT(error.what(), testing::HasSubstr(part)) << what;
    return;
  } catch (const std::exception& error) {
    ADD_FAILURE() << what << ": not a user error: " << error.what();
    return;
  }
  ADD_FAILURE() << what << ": was accepted";
}

}  // namespace hone::model
