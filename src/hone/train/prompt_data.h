#pragma once
// The rows of on-policy training and of evaluation by sampling: prompts as tokens, and the whole row for whoever judges.
#include <nlohmann/json.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hone/rewards/reward.h"
#include "hone/train/row_data.h"

namespace hone::train {

struct PromptRow {
  std::vector<int32_t> ids;  // rendered with the generation prompt
  nlohmann::json columns;    // the row as it stands in the file: answer, tests, ...
  data::Place place;
  int64_t source = 0;  // number of the row over all files, from 0
};

struct PromptData : RowData {  // its cache stays empty: prompts are few and short beside what is sampled from them
  std::vector<PromptRow> rows;
  int64_t cut = 0;  // over-long prompts that lost their front
};

/// A reward under its name.
struct NamedReward {
  std::string name;
  std::unique_ptr<rewards::Reward> reward;
};

/// Reads and checks every row before anything else begins; `prompt_limit`: tokens that a prompt may have (max_length -
/// max_completion_length). Each reward looks at each row: a gold answer that it cannot read is a bad row. UserError (exit 2) of at most 6
/// lines for bad rows, all of them in options.bad_rows.
PromptData load_prompt_data(const RowDataOptions& options, int64_t prompt_limit, const std::vector<NamedReward>& rewards);

/// "1,000 prompts, 31 tokens each (longest 52); 3 over-long dropped" for people.
std::string describe(const PromptData& data);

}  // namespace hone::train
