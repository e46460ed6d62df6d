#pragma once
// Rows of the shared data, which is not part of the repository: HONE_SHARED, else ../shared beside it.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace hone::rewards {

/// Empty where the file is not here.
inline std::vector<nlohmann::json> shared_rows(const std::string& name) {
  const char* folder = std::getenv("HONE_SHARED");
  const std::filesystem::path path = std::filesystem::path(folder ? folder : HONE_SOURCE_DIR "/../shared") / "data" / name;
  std::vector<nlohmann::json> rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

}  // namespace hone::rewards
