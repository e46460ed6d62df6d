#pragma once
// Where the tests of this layer find their data.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hone/base/files.h"

namespace hone::text {

/// The folder of tokenizer vectors: HONE_SHARED/data/tokenizers, or the one beside the checkout. May not exist: then tests skip.
inline std::filesystem::path shared_tokenizers() {
  const char* shared = std::getenv("HONE_SHARED");
  const std::filesystem::path root = shared ? shared : std::filesystem::path(HONE_SOURCE_DIR) / ".." / "shared";
  return root / "data" / "tokenizers";
}

inline std::vector<nlohmann::json> read_jsonl(const std::filesystem::path& path) {
  std::vector<nlohmann::json> rows;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

inline std::filesystem::path golden(const std::string& name) { return std::filesystem::path(HONE_SOURCE_DIR) / "tests" / "golden" / name; }

}  // namespace hone::text
