#include "model_comparison.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "hone/base/error.h"
#include "hone/base/files.h"

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

}  // namespace

PromptScores score_prompts(model::Model& model, const ops::AdapterSet* adapters, std::span<const std::vector<int32_t>> prompts) {
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
  check(before.logprobs.size() == after.logprobs.size(), "difference: {} rows against {}", before.logprobs.size(), after.logprobs.size());
  ModelDifference result;
  double sum = 0;
  int64_t same = 0;
  bool finite = true;
  for (size_t row = 0; row < before.logprobs.size(); ++row) {
    const std::vector<float>&a = before.logprobs[row], &b = after.logprobs[row];
    check(a.size() == b.size(), "difference: row {} has {} tokens against {}", row, a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      const double apart = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      finite = finite && std::isfinite(apart);
      sum += apart;
      result.max = std::max(result.max, apart);
      same += before.likeliest[row][i] == after.likeliest[row][i];
      ++result.tokens;
    }
  }
  if (result.tokens == 0) fail("there is no token to compare the two models on; give rows of at least two tokens with --data");
  result.mean = sum / static_cast<double>(result.tokens);
  result.top1 = static_cast<double>(same) / static_cast<double>(result.tokens);
  if (!finite) result.mean = result.max = std::numeric_limits<double>::quiet_NaN();
  return result;
}

std::string describe(const ModelDifference& difference) {
  return fmt::format("mean |dlogp| {:.2g}, max {:.2g}, top-1 agreement {:.2f} % over {} tokens", difference.mean, difference.max,
                     100 * difference.top1, difference.tokens);
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
