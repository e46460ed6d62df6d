#pragma once
// GGUF version 2 and 3 (little-endian), read through a memory map. Everything in the file is hostile until checked: counts are compared
// with the bytes that are left before anything is allocated. Dimensions are turned round: shapes here are rows first, as elsewhere.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hone/base/files.h"
#include "hone/model/safetensors.h"

namespace hone::text {
struct GgufVocabulary;
}

namespace hone::model {

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// A metadata value, as a view into the mapped file. Arrays keep their element type; nested arrays can be skipped but not read.
struct GgufValue {
  GgufType type = GgufType::u8;
  std::string_view bytes;                // the scalar's bytes, the string, or an array's elements
  GgufType element_type = GgufType::u8;  // of an array
  uint64_t count = 0;                    // of an array
};

class GgufFile {
 public:
  enum class Parts { everything, metadata_only };
  /// `metadata_only` reads no tensor list, so that a tokenizer can be taken from a file whose tensor types hone does not read.
  explicit GgufFile(const std::filesystem::path& path, Parts parts = Parts::everything);

  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const MappedFile& file() const { return file_; }
  std::string where() const { return file_.path().string(); }

  bool has(const std::string& key) const { return metadata_.count(key) != 0; }
  /// Typed access; nullopt when the key is absent, UserError naming key, found type and wanted type when it is something else.
  std::optional<int64_t> integer(const std::string& key) const;  // any integer type
  std::optional<double> number(const std::string& key) const;    // f32 or f64, or an integer
  std::optional<bool> boolean(const std::string& key) const;
  std::optional<std::string> string(const std::string& key) const;
  std::optional<std::vector<std::string>> strings(const std::string& key) const;
  std::optional<std::vector<int32_t>> integers(const std::string& key) const;
  std::optional<std::vector<float>> floats(const std::string& key) const;

 private:
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, TensorView> tensors_;
};

/// The tokenizer in the metadata (tokenizer.ggml.*, tokenizer.chat_template). UserError when there is none or its lists disagree in length.
text::GgufVocabulary vocabulary_from_gguf(const GgufFile& file);

}  // namespace hone::model
