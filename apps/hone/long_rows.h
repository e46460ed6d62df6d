#pragma once
// Rows that are longer than the model was made for: computed all the same, but said once.
#include <cstdint>
#include <span>
#include <string>

#include "hone/data/rows.h"
#include "hone/data/token_cache.h"

namespace hone::app {

class LongRows {
 public:
  explicit LongRows(int64_t max_position_embeddings) : limit_(max_position_embeddings) {}
  void add(const data::Place& place, int64_t tokens);
  /// The rows of a token cache, which knows them by their number over all files.
  void add(std::span<const data::TokenRow> rows, std::span<const std::string> files);
  /// One warning with the count and the first place, where there was any.
  void warn() const;

 private:
  int64_t limit_;
  int64_t count_ = 0, longest_ = 0;
  data::Place first_;
};

}  // namespace hone::app
