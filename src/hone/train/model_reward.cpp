#include "hone/train/model_reward.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>
#include <vector>

#include "hone/base/error.h"
#include "hone/text/render.h"
#include "hone/train/scoring.h"

namespace hone::train {
namespace {

using rewards::Judgement;
using rewards::Verdict;

class ModelReward : public rewards::Reward {
 public:
  explicit ModelReward(RewardModelParts parts) : parts_(std::move(parts)) {}

  std::string check_row(const nlohmann::json& row) const override {
    try {
      tokens_of(row, "x");
      return {};
    } catch (const UserError& error) {
      return error.what();
    }
  }

  std::vector<Judgement> judge(std::span<const rewards::Sample> samples) override {
    check(parts_.model != nullptr, "a reward model judges before it is loaded");
    std::vector<Judgement> out(samples.size());
    std::vector<std::vector<int32_t>> rows;
    std::vector<size_t> owners;
    for (size_t i = 0; i < samples.size(); ++i) {
      try {
        rows.push_back(tokens_of(*samples[i].row, samples[i].completion));
        owners.push_back(i);
      } catch (const UserError& error) {
        out[i] = {Verdict::crashed, std::nullopt, error.what()};
      }
    }
    const std::vector<float> scores = reward_scores(*parts_.model, rows, parts_.micro_batch_tokens, parts_.adapters);
    for (size_t j = 0; j < scores.size(); ++j) {
      if (std::isfinite(scores[j]))
        out[owners[j]] = {scores[j] > 0 ? Verdict::right : Verdict::wrong, scores[j], {}};
      else
        out[owners[j]] = {Verdict::crashed, std::nullopt, "the reward model's score is not finite"};
    }
    return out;
  }

 private:
  // An empty completion still has its end-of-turn token, which is where the score is read.
  std::vector<int32_t> tokens_of(const nlohmann::json& row, const std::string& completion) const {
    data::RowRules rules;
    rules.accepted = {data::RowKind::prompt_completion};
    rules.for_training = rules.needs_assistant = rules.keep_columns = false;
    if (!row.contains("prompt")) fail("the row has no prompt");
    nlohmann::json object{{"prompt", row.at("prompt")}, {"completion", completion}};
    if (row.contains("tools")) object["tools"] = row.at("tools");
    auto parsed = data::parse_row(std::move(object), {"", 0}, rules);
    if (const auto* error = std::get_if<data::RowError>(&parsed)) fail("{}", data::describe(*error));
    text::RowResult result = text::try_tokenize_row(std::get<data::Row>(parsed), *parts_.tokenizer, *parts_.chat);
    if (result.row.ids.empty()) fail("there is no token to score");
    const auto length = static_cast<int64_t>(result.row.ids.size());
    if (length > parts_.config->max_position_embeddings)
      fail("{} tokens are more than the reward model's {} positions", length, parts_.config->max_position_embeddings);
    for (const int32_t id : result.row.ids)
      if (id < 0 || id >= parts_.config->vocab_size) fail("id {} is not in the reward model's vocabulary", id);
    return std::move(result.row.ids);
  }

  RewardModelParts parts_;
};

}  // namespace

std::unique_ptr<rewards::Reward> make_model_reward(RewardModelParts parts) { return std::make_unique<ModelReward>(std::move(parts)); }

}  // namespace hone::train
