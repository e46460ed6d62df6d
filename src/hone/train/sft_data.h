#pragma once
// Rows of files -> tokens to train on: checked as a whole before the model loads, tokenised once (memory-mapped cache), over-long rows
// dropped, cut or refused.
#include <string>
#include <vector>

#include "hone/train/row_data.h"

namespace hone::train {

struct SftData : RowData {
  std::vector<data::TokenRow> rows;
  int64_t trained_tokens = 0;
};

/// UserError (exit 2) of at most 6 lines when any row is bad: kinds of fault with counts and first places.
SftData load_sft_data(const RowDataOptions& options);

/// "8,000 rows, 1.2 M tokens (64 % trained), longest 512; 3 over-long dropped, ..." for people.
std::string describe(const SftData& data, const config::RunConfig& config);

}  // namespace hone::train
