#pragma once
// Preference rows of files -> pairs of token sequences; unpaired rows (and pairs, taken apart) -> sequences labelled good or bad.
//
// A pair stands in the token cache as two rows next to each other, chosen first; margins and labels stand in the cache's note. Over-long
// rows are dropped, refused, or (--overlong cut) lose the front of their prompt, both sides of a pair the same tokens: a completion is
// never cut, and at least one token of the prompt is left to predict it from. A row whose completion alone is too long is dropped.
#include <string>
#include <vector>

#include "hone/data/pair_row.h"
#include "hone/train/row_data.h"
#include "hone/train/sft_data.h"

namespace hone::train {

struct PairData : RowData {
  std::vector<data::PairRow> rows;  // tokens: a prompt counted once per side
  int64_t cut = 0;                  // of the over-long: kept with a shorter prompt
  int64_t differ_early = 0;         // pairs read that differ before the last turn
  int64_t margins = 0;              // pairs read that have a margin other than 0
  int64_t chosen_tokens = 0;        // trained tokens of the kept rows
  int64_t rejected_tokens = 0;
  int64_t chosen_longer = 0;  // kept pairs whose chosen side has more trained tokens
};

struct UnpairedData : RowData {
  std::vector<data::UnpairedRow> rows;  // a pair becomes a good row and, behind it, a bad one
  int64_t cut = 0;
  int64_t good = 0;  // of the kept rows
  int64_t bad = 0;
  int64_t from_pairs = 0;  // rows read that are pairs
  int64_t trained_tokens = 0;
};

/// UserError (exit 2) of at most 6 lines when any row is bad (sides that are equal, too). Pairs that differ before the last turn are a warning.
PairData load_pair_data(const RowDataOptions& options);

/// The same for completions labelled good or bad; rows may be pairs. UserError where all labels are equal.
UnpairedData load_unpaired_data(const RowDataOptions& options);

/// "800 pairs, 96,000 tokens, longest 210; completions 61 and 58 tokens, chosen longer in 54 %; 3 over-long dropped, ..." for people.
std::string describe(const PairData& data, const config::RunConfig& config);
std::string describe(const UnpairedData& data, const config::RunConfig& config);

}  // namespace hone::train
