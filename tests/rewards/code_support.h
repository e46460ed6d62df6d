#pragma once
// Programs through the reward `code`, and the data that it is made for.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "hone/base/error.h"
#include "hone/rewards/reward.h"
#include "hone/rewards/sandbox.h"

namespace hone::rewards {

/// A test that needs isolation says aloud that it did not run.
#define NEEDS_ISOLATION() \
  if (!isolation_fault().empty()) GTEST_SKIP() << "no isolation on this machine: " << isolation_fault()

inline std::string shared_file(const std::string& name) {
  const char* folder = std::getenv("HONE_SHARED");
  return std::string(folder != nullptr ? folder : HONE_SOURCE_DIR "/../shared") + "/data/" + name;
}

inline std::vector<nlohmann::json> read_rows(const std::string& path, size_t most) {
  std::vector<nlohmann::json> rows;
  std::ifstream in(path);
  for (std::string line; rows.size() < most && std::getline(in, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

inline std::vector<Judgement> judge_all(Reward& reward, const std::vector<nlohmann::json>& rows, const std::vector<std::string>& completions) {
  std::vector<Sample> samples;
  for (size_t i = 0; i < rows.size(); ++i) samples.push_back({&rows[i], completions[i], {}, false});
  return reward.judge(samples);
}

}  // namespace hone::rewards
