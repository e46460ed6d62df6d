#pragma once
// The reference's log-probabilities on disk, so that a second run on the same policy and data computes none of them. They stand in the folder
// of the token caches, as rows of the same checked file format (data/token_cache.h): ids are the tokens predicted, weights their
// log-probabilities (float32, every bit), `source` is the hash of the packed row. A damaged file is made anew, with a warning.
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hone/batch/packed_batch.h"
#include "hone/data/token_cache.h"

namespace hone::train {

class ReferenceCache {
 public:
  /// `policy` stands for every bit of the policy that scores, `data` for the data set: one file for each pair of them.
  ReferenceCache(std::filesystem::path folder, std::string_view policy, std::string_view data);
  /// The log-probabilities of the row's predictions, in order; nothing where they are not known. The span lives until write().
  std::optional<std::span<const float>> find(const batch::PackedBatch& row) const;
  void add(const batch::PackedBatch& row, std::span<const float> logprobs);
  /// Puts what was added into the file, beside what stands there. A full or read-only disk is a warning: the run does not need the file.
  void write();

 private:
  struct Entry {
    int64_t hash = 0;
    std::vector<int32_t> targets;
    std::vector<float> logprobs;
  };
  std::filesystem::path folder_;
  std::string key_;
  std::optional<data::TokenCache> file_;
  std::unordered_map<int64_t, int64_t> places_;  // hash of a packed row -> its number in the file
  std::vector<Entry> added_;
};

}  // namespace hone::train
