#include "hone/train/ppo_training.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "hone/base/error.h"
#include "hone/base/rng.h"

namespace hone::train {
namespace {

nlohmann::ordered_json state_json(const methods::PpoState& s) {
  return {{"rollouts", s.rollouts}, {"kl_coef", s.kl_coef}, {"scores", {s.scores.count, s.scores.mean, s.scores.sum_squares}}};
}

methods::PpoState state_from(const nlohmann::ordered_json& json) {
  const auto& scores = json.at("scores");
  return {json.at("rollouts"), json.at("kl_coef"), {scores.at(0), scores.at(1), scores.at(2)}};
}

}  // namespace

PpoTraining::PpoTraining(const std::shared_ptr<methods::PpoRollout>& rollout, const config::RunConfig& config)
    : PpoPolicy(rollout, state_, config.temperature, config.entropy_coef, config.max_tree_tokens),
      rollout_(rollout),
      state_{0, config.kl_coef, {}},
      value_(rollout, config.max_tree_tokens) {}

void PpoTraining::begin(std::vector<methods::Group> groups) {
  begin_state_ = state_;
  PpoPolicy::begin(std::move(groups));
}

void PpoTraining::referenced() {
  std::vector<int64_t> rows;
  for (int64_t r = 0; r < num_rows(); ++r)
    if (rollout_->row(r).predictions() > 0) rows.push_back(r);
  if (restored_.empty()) {
    check(role_.model != nullptr, "PPO without a value model");
    score_values(role_, value_, rows, [&](int64_t row, std::vector<float> values) { rollout_->set_values(row, std::move(values)); });
  } else {
    check(static_cast<int64_t>(restored_.size()) == num_rows(), "values of {} rows, {} restored", restored_.size(), num_rows());
    for (const int64_t r : rows) rollout_->set_values(r, std::move(restored_[r]));
    restored_.clear();
  }
  PpoPolicy::referenced();
}

nlohmann::ordered_json PpoTraining::state(bool between_rollouts) const {
  nlohmann::ordered_json json = state_json(between_rollouts ? state_ : begin_state_);
  if (between_rollouts) return json;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (int64_t r = 0; r < num_rows(); ++r) {
    std::vector<uint32_t> bits;
    for (const float v : rollout_->row(r).values) bits.push_back(std::bit_cast<uint32_t>(v));
    rows.push_back(bits);
  }
  json["values"] = rows;
  return json;
}

void PpoTraining::restore(const nlohmann::ordered_json& json) {
  state_ = state_from(json);
  restored_.clear();
  if (!json.contains("values")) return;
  for (const auto& row : json.at("values")) {
    std::vector<float>& values = restored_.emplace_back();
    for (const auto& bits : row) values.push_back(std::bit_cast<float>(bits.get<uint32_t>()));
  }
}

RolloutPlan ppo_plan(int64_t prompts, int64_t num_ppo_epochs, int64_t num_mini_batches, uint64_t seed) {
  check(num_mini_batches >= 1 && num_mini_batches <= prompts, "{} mini-batches of {} prompts", num_mini_batches, prompts);
  RolloutPlan plan;
  plan.prompts = prompts;
  plan.steps = num_ppo_epochs * num_mini_batches;
  plan.rows = [=](int64_t rollout, int64_t step) {
    std::vector<uint32_t> order(static_cast<size_t>(prompts));
    std::iota(order.begin(), order.end(), 0u);
    const int64_t pass = rollout * num_ppo_epochs + step / num_mini_batches, part = step % num_mini_batches;
    // One update over all of it needs no order; keyed apart from the order of the prompts by the top bit.
    if (num_mini_batches > 1)
      random_permutation(seed ^ (uint64_t{1} << 63), static_cast<uint32_t>(pass), static_cast<uint32_t>(prompts), order.data());
    const int64_t from = prompts * part / num_mini_batches, to = prompts * (part + 1) / num_mini_batches;
    return std::vector<int64_t>(order.begin() + from, order.begin() + to);
  };
  return plan;
}

void score_values(const ValueRole& role, const methods::PpoValue& method, std::span<const int64_t> rows,
                  const std::function<void(int64_t row, std::vector<float> values)>& done) {
  at::NoGradGuard no_grad;
  std::vector<int64_t> lengths;
  for (const int64_t row : rows) lengths.push_back(method.row_tokens(row));
  if (rows.empty()) return;
  model::ensure_positions(*role.model, *std::max_element(lengths.begin(), lengths.end()));
  int64_t begin = 0;
  for (const int64_t end : batch::plan_micro_batches(lengths, role.micro_batch_tokens)) {
    batch::PackedBatch packed;
    std::vector<int64_t> states;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t before = packed.num_predictions() + packed.num_sequences;
      method.append(packed, rows[i]);
      states.push_back(packed.num_predictions() + packed.num_sequences - before);
    }
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, role.model->device);
    const at::Tensor hidden = model::decoder(*role.model, role.adapters, tensors, {});
    const at::Tensor values = model::state_values(*role.model, role.adapters, hidden, tensors).cpu().contiguous();
    const float* v = values.const_data_ptr<float>();
    for (const int64_t count : states) {
      done(rows[begin++], {v, v + count});
      v += count;
    }
  }
}

}  // namespace hone::train
