#include "model_comparison.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/train/scoring.h"

namespace hone::app {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kMicroBatch = 1024;  // tokens computed at a time
constexpr int64_t kLogitRows = 64;     // rows of logits held at a time: 12 MB for a vocabulary of 49152

// The likeliest next token for each of the hidden states, lowest id on ties.
std::vector<int32_t> likeliest_tokens(const at::Tensor& hidden, ops::Parameter& head) {
  std::vector<int32_t> out;
  for (int64_t begin = 0; begin < hidden.size(0); begin += kLogitRows) {
    const at::Tensor logits = ops::head_logits(hidden.slice(0, begin, std::min(begin + kLogitRows, hidden.size(0))).contiguous(), head);
    const at::Tensor best = logits.argmax(1).cpu();
    const int64_t* ids = best.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < best.size(0); ++i) out.push_back(static_cast<int32_t>(ids[i]));
  }
  return out;
}

// Mean and max of what is apart, over all of it.
class Apart {
 public:
  void add(float a, float b) {
    const double apart = std::abs(static_cast<double>(a) - static_cast<double>(b));
    finite_ = finite_ && std::isfinite(apart);
    sum_ += apart;
    max_ = std::max(max_, apart);
    ++count_;
  }
  void write(ModelDifference& result) const {
    result.count = count_;
    result.mean = finite_ ? sum_ / static_cast<double>(count_) : std::numeric_limits<double>::quiet_NaN();
    result.max = finite_ ? max_ : result.mean;
  }

 private:
  double sum_ = 0, max_ = 0;
  bool finite_ = true;
  int64_t count_ = 0;
};

ModelDifference reward_difference(const std::vector<float>& before, const std::vector<float>& after) {
  check(before.size() == after.size(), "difference: {} rewards against {}", before.size(), after.size());
  ModelDifference result;
  result.reward_model = true;
  Apart apart;
  int64_t same = 0, pairs = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    apart.add(before[i], after[i]);
    for (size_t k = 0; k < i; ++k, ++pairs) same += (before[i] < before[k]) == (after[i] < after[k]);
  }
  apart.write(result);
  result.same_order = static_cast<double>(same) / static_cast<double>(pairs);
  return result;
}

}  // namespace

PromptScores score_prompts(model::Model& model, const ops::AdapterSet* adapters, std::span<const std::vector<int32_t>> prompts) {
  if (model.config.reward_model) return {{}, {}, train::reward_scores(model, prompts, kMicroBatch, adapters)};
  std::vector<int64_t> lengths;
  for (const auto& ids : prompts) lengths.push_back(static_cast<int64_t>(ids.size()));
  if (!lengths.empty()) model::ensure_positions(model, *std::max_element(lengths.begin(), lengths.end()));
  ops::Parameter& head = model.head(adapters);
  PromptScores scores;
  size_t begin = 0;
  for (const int64_t end : batch::plan_micro_batches(lengths, kMicroBatch)) {
    batch::PackedBatch packed;
    for (size_t i = begin; i < static_cast<size_t>(end); ++i)
      batch::append_document(packed, prompts[i].data(), nullptr, lengths[i], /*keep_all=*/true);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    at::NoGradGuard no_grad;
    const at::Tensor hidden = model::decoder(model, adapters, tensors, {});
    const at::Tensor logprobs = ops::token_logprobs(hidden, head, tensors, {}).logprobs.cpu().contiguous();
    const std::vector<int32_t> likeliest = likeliest_tokens(hidden.index_select(0, tensors.predict_from), head);
    const float* p = logprobs.const_data_ptr<float>();
    auto best = likeliest.begin();
    for (size_t i = begin; i < static_cast<size_t>(end); ++i) {
      const int64_t count = lengths[i] - 1;
      scores.logprobs.emplace_back(p, p + count);
      scores.likeliest.emplace_back(best, best + count);
      p += count;
      best += count;
    }
    begin = static_cast<size_t>(end);
  }
  return scores;
}

ModelDifference difference(const PromptScores& before, const PromptScores& after) {
  if (!before.rewards.empty()) return reward_difference(before.rewards, after.rewards);
  check(before.logprobs.size() == after.logprobs.size(), "difference: {} rows against {}", before.logprobs.size(), after.logprobs.size());
  ModelDifference result;
  Apart apart;
  int64_t same = 0;
  for (size_t row = 0; row < before.logprobs.size(); ++row) {
    const std::vector<float>&a = before.logprobs[row], &b = after.logprobs[row];
    check(a.size() == b.size(), "difference: row {} has {} tokens against {}", row, a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      apart.add(a[i], b[i]);
      same += before.likeliest[row][i] == after.likeliest[row][i];
    }
  }
  apart.write(result);
  if (result.count == 0) fail("there is no token to compare the two models on; give rows of at least two tokens with --data");
  result.top1 = static_cast<double>(same) / static_cast<double>(result.count);
  return result;
}

std::string describe(const ModelDifference& d) {
  if (d.reward_model)
    return fmt::format("mean |dscore| {:.2g}, max {:.2g}, the same order in {:.2f} % of the pairs of {} rows", d.mean, d.max, 100 * d.same_order,
                       d.count);
  return fmt::format("mean |dlogp| {:.2g}, max {:.2g}, top-1 agreement {:.2f} % over {} tokens", d.mean, d.max, 100 * d.top1, d.count);
}

void add_to(nlohmann::ordered_json& json, const ModelDifference& d, double allowed) {
  const std::string of = d.reward_model ? "dscore" : "dlogp";
  json["mean_" + of] = d.mean;
  json["max_" + of] = d.max;
  json["allowed_" + of] = allowed;
  json[d.reward_model ? "same_order" : "top1_agreement"] = d.reward_model ? d.same_order : d.top1;
  json[d.reward_model ? "rows" : "tokens"] = d.count;
}

void require_close(const ModelDifference& difference, double max_dlogp, const std::string& what, const std::string& advice) {
  if (difference.max <= max_dlogp) return;
  throw UserError(Exit::guard, fmt::format("{} differs from its source by more than --max_dlogp {}: {}; nothing was left. {}", what, max_dlogp,
                                           describe(difference), advice));
}

UncheckedOutput::UncheckedOutput(const fs::path& path) {
  const fs::path target = fs::absolute(path).lexically_normal();
  path_ = target.has_filename() ? target : target.parent_path();
  const fs::file_status status = fs::symlink_status(path_);
  if (fs::exists(status) && !(fs::is_directory(status) && fs::is_empty(path_)))
    fail("{}: something stands there already and is not written over; name another output, or remove it", path.string());
  scratch_ = path_.parent_path() / fmt::format(".{}.unchecked{}", path_.stem().string(), path_.extension().string());
  std::error_code ignored;
  fs::create_directories(path_.parent_path(), ignored);
  fs::remove_all(scratch_, ignored);  // what a killed process left
}

UncheckedOutput::~UncheckedOutput() {
  std::error_code ignored;
  fs::remove_all(scratch_, ignored);
}

void UncheckedOutput::accept() {
  std::error_code ignored;
  fs::remove(path_, ignored);  // an empty folder; anything else is refused below
  rename_new(scratch_, path_);
  sync_folder(path_.parent_path());
}

}  // namespace hone::app
