#pragma once
// Rows of files -> tokens to train on: checked as a whole before the model loads, tokenised once (memory-mapped cache), over-long rows
// dropped, cut or refused.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/data/dataset.h"
#include "hone/data/token_cache.h"
#include "hone/text/render.h"

namespace hone::train {

struct SftData {
  std::shared_ptr<const data::TokenCache> cache;  // the rows point into it
  std::vector<data::TokenRow> rows;
  int64_t rows_read = 0;
  int64_t duplicates = 0;
  int64_t overlong = 0;         // longer than max_length: dropped, or cut
  int64_t without_trained = 0;  // dropped: no trained token was left
  int64_t longest = 0;          // tokens, of the kept rows
  int64_t tokens = 0;           // of the kept rows
  int64_t trained_tokens = 0;
  std::string content_hash;  // of the files' bytes
  std::string cache_key;     // of data, tokenizer, template and options
};

struct SftDataOptions {
  std::vector<std::string> files;
  const config::RunConfig* config = nullptr;
  const text::Tokenizer* tokenizer = nullptr;
  const text::ChatTemplate* chat = nullptr;
  int64_t vocab_size = 0;          // ids must be below it
  std::filesystem::path bad_rows;  // where faults are written; empty: nowhere
  std::filesystem::path cache_folder;
};

/// UserError (exit 2) of at most 6 lines when any row is bad: kinds of fault with counts and first places.
SftData load_sft_data(const SftDataOptions& options);

/// Where token caches live: $HONE_CACHE, else $XDG_CACHE_HOME/hone, else ~/.cache/hone, else a folder for temporary files.
/// Those opened longest ago go when it holds more than $HONE_CACHE_MIB (else 8 GiB); one in use never goes.
std::filesystem::path default_cache_folder();

/// "8,000 rows, 1.2 M tokens (64 % trained), longest 512; 3 over-long dropped, ..." for people.
std::string describe(const SftData& data, const config::RunConfig& config);

}  // namespace hone::train
