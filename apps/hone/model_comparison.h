#pragma once
// Did a change of form (merging, converting) keep the model? Two models read the same held-out prompts; the output stays under another
// name until they agree. The two need not be in memory at once: score one, drop it, score the other.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hone/model/decoder.h"
#include "text_model.h"

namespace hone::app {

/// What one model says about the prompts: for every position but a row's last, log p of the token that follows and the likeliest token; a
/// reward model instead the score of each row, read at its last token.
struct PromptScores {
  std::vector<std::vector<float>> logprobs;
  std::vector<std::vector<int32_t>> likeliest;
  std::vector<float> rewards;
};

/// `adapters` may be null: the base model.
PromptScores score_prompts(model::Model& model, const ops::AdapterSet* adapters, std::span<const std::vector<int32_t>> prompts);

/// Of |dlogp| over all tokens; `top1` is the share of tokens at which both find the same token likeliest. Of reward models: of |dscore| over
/// all rows (`count`), and `same_order` is the share of pairs of rows of which both score the same one higher.
struct ModelDifference {
  bool reward_model = false;
  double mean = 0;
  double max = 0;
  double top1 = 0;        // language models
  double same_order = 0;  // reward models; NaN with a single row
  int64_t count = 0;      // tokens, or rows
};

/// A NaN on either side makes mean and max NaN. UserError when there is no token to compare.
ModelDifference difference(const PromptScores& before, const PromptScores& after);

/// "mean |dlogp| 1.2e-05, max 3.4e-04, top-1 agreement 100.00 % over 1024 tokens"
std::string describe(const ModelDifference& difference);

/// The same as keys of a command's JSON: mean_dlogp, max_dlogp, allowed_dlogp, top1_agreement, tokens, or mean_dscore, max_dscore,
/// allowed_dscore, same_order, rows.
void add_to(nlohmann::ordered_json& json, const ModelDifference& difference, double allowed);

/// UserError (exit 3) with the figures and `advice` unless max <= max_dlogp, the bound of scores too (NaN is not). `what`: "the merged model".
void require_close(const ModelDifference& difference, double max_dlogp, const std::string& what, const std::string& advice);

/// The prompts as token ids, each of at least 2 tokens: of `files` (JSON Lines of any kind of row, or {"ids"}) the first rows up to 8192
/// tokens in all, rows cut to 1024 tokens; without files the built-in ones. `text` may be null (a model without a tokenizer): then only
/// {"ids"} can be read, and the built-in prompts are random ids.
std::vector<std::vector<int32_t>> comparison_prompts(const TextModel* text, const model::ModelConfig& config, std::span<const std::string> files);

/// The output of such a command before it is accepted: written under scratch(), a name beside the final one, and removed again unless
/// accept() is reached.
class UncheckedOutput {
 public:
  /// UserError when something stands at `path` already (an empty folder may): nothing is ever written over.
  explicit UncheckedOutput(const std::filesystem::path& path);
  UncheckedOutput(const UncheckedOutput&) = delete;
  UncheckedOutput& operator=(const UncheckedOutput&) = delete;
  ~UncheckedOutput();
  const std::filesystem::path& scratch() const { return scratch_; }
  /// Gives the output its final name; UserError when something has come to stand there meanwhile.
  void accept();

 private:
  std::filesystem::path path_, scratch_;
};

}  // namespace hone::app
