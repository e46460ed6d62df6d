#pragma once
// Tokenised rows in a memory-mapped file, so that a second start does not tokenise again. It stores arrays and knows no tokenizer: the
// caller's key stands for data, tokenizer, template and options. A file that is torn, damaged or of another key is never trusted.
//
// Layout (little-endian): magic(16) | per row ids int32[n], weights float32[n], roles uint8[n] padded to 4 | per row RowEntry | note | Footer.
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hone/base/files.h"
#include "hone/base/hash.h"

namespace hone::data {

/// One tokenised row; the three spans have the same length.
struct TokenRow {
  std::span<const int32_t> ids;
  std::span<const float> weights;
  std::span<const uint8_t> roles;
  int32_t prompt_length = 0;
  int64_t source = 0;  // the caller's number of the row this was made from
};

/// Where the arrays of a row lie in the file.
struct RowEntry {
  uint64_t offset = 0;
  int64_t source = 0;
  uint32_t count = 0;
  int32_t prompt_length = 0;
};

/// The key of a cache: a hash of the parts (data, tokenizer, template, options ...) and of the layout's version.
std::string token_cache_key(std::initializer_list<std::string_view> parts);

/// A complete cache, mapped. Rows point into it.
class TokenCache {
 public:
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  TokenRow row(int64_t index) const;
  int64_t total_tokens() const { return total_tokens_; }
  /// All ids are in 0..max_id (-1 where there is no token): to compare with the model's vocabulary.
  int32_t max_id() const { return max_id_; }
  /// What the writer handed to finish().
  std::string_view note() const { return note_; }

 private:
  friend std::optional<TokenCache> open_token_cache(const std::filesystem::path&, const std::string&, std::string*);
  MappedFile file_;
  std::shared_ptr<const void> lock_;  // shared, of the file: trim_token_caches leaves it alone
  std::span<const RowEntry> entries_;
  std::string_view note_;
  int64_t total_tokens_ = 0;
  int32_t max_id_ = -1;
};

/// The cache of this key in the folder, checked to the last byte (checksum, every offset, every id); nothing where there is none or it
/// is damaged, and then `why_not` (may be null) says why in a phrase. The caller builds it anew.
std::optional<TokenCache> open_token_cache(const std::filesystem::path& folder, const std::string& key, std::string* why_not = nullptr);

/// Removes the caches of the folder that were opened longest ago until `limit` bytes are left; one that a process has open stays, however
/// large. Folders that cannot be read are left alone.
void trim_token_caches(const std::filesystem::path& folder, uint64_t limit);

/// Writes a cache row by row to a temporary file of its own in the folder (made when missing) and moves it into place at the end, so
/// that several processes may write the same key at once. Temporary files that a killed process left a day ago are removed.
class TokenCacheWriter {
 public:
  TokenCacheWriter(const std::filesystem::path& folder, const std::string& key);
  TokenCacheWriter(const TokenCacheWriter&) = delete;
  TokenCacheWriter& operator=(const TokenCacheWriter&) = delete;
  ~TokenCacheWriter();

  void add(const TokenRow& row);
  /// Syncs, moves into place and opens what was written.
  TokenCache finish(std::string_view note = {});

 private:
  void write(const void* data, size_t size);

  std::filesystem::path folder_, temporary_;
  std::string key_;
  std::unique_ptr<FileWriter> file_;
  Hasher hasher_;
  uint64_t offset_ = 0;
  std::vector<RowEntry> entries_;
};

}  // namespace hone::data
