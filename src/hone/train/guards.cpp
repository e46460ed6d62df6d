#include "hone/train/guards.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "hone/base/error.h"
#include "hone/base/files.h"
#include "hone/base/hash.h"

namespace hone::train {
namespace {

bool part_has_gradient(const ops::Parameter& p, const ops::Part& part) {
  std::vector<float> rows(part.rows * std::max<int64_t>(p.cols, 1));
  ops::get_part_gradient(p, part, rows.data());
  return std::any_of(rows.begin(), rows.end(), [](float g) { return g != 0.0f; });
}

std::string list_names(const std::vector<std::string>& names) {
  std::string text = names.front();
  for (size_t i = 1; i < names.size() && i < 3; ++i) text += ", " + names[i];
  return names.size() > 3 ? fmt::format("{} and {} more", text, names.size() - 3) : text;
}

std::string value_hash(const ops::Parameter& p) {
  const at::Tensor value = p.value.detach().cpu();
  return hash_hex(value.const_data_ptr<float>(), value.numel() * sizeof(float));
}

}  // namespace

TrainableGuard::TrainableGuard(std::vector<ops::Parameter*> parameters) : parameters_(std::move(parameters)), written_(parameters_.size(), false) {
  for (const ops::Parameter* p : parameters_) seen_.emplace_back(p->parts.size(), false);
}

std::string TrainableGuard::after_backward(std::span<const double> squares) {
  if (signals_ >= 2) return {};
  if (std::none_of(squares.begin(), squares.end(), [](double s) { return s > 0; })) return {};
  if (!moved_) return {};
  moved_ = false;
  ++signals_;
  std::vector<std::string> without;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ops::Parameter& p = *parameters_[i];
    for (size_t j = 0; j < p.parts.size(); ++j) {
      if (!seen_[i][j]) seen_[i][j] = p.parts.size() == 1 ? squares[i] > 0 : squares[i] > 0 && part_has_gradient(p, p.parts[j]);
      if (!seen_[i][j]) without.push_back(p.parts[j].name);
    }
  }
  if (signals_ < 2 || without.empty()) return {};
  return fmt::format("no gradient has reached {} in two steps: it would never be trained", list_names(without));
}

void TrainableGuard::before_update() {
  hashes_.clear();
  for (size_t i = 0; i < parameters_.size(); ++i) hashes_.push_back(written_[i] ? "" : value_hash(*parameters_[i]));
}

std::string TrainableGuard::after_update() {
  ++updates_;
  std::vector<std::string> unchanged;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!written_[i]) written_[i] = value_hash(*parameters_[i]) != hashes_[i];
    const bool had_gradient = std::find(seen_[i].begin(), seen_[i].end(), true) != seen_[i].end();
    if (!written_[i] && had_gradient) unchanged.push_back(parameters_[i]->name());
  }
  hashes_.clear();
  if (unchanged.empty()) return {};
  return fmt::format("{} did not change {}: the learning rate is too small for float32, or the tensor is not written",
                     updates_ == 1 ? "the first update" : "the first two updates", list_names(unchanged));
}

double FallGuard::median() const {
  std::vector<double> sorted = window_;
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  return n == 0 ? 0 : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

std::string FallGuard::after_step(double fall) {
  if (!(bound_ > 0) || !std::isfinite(fall)) return {};
  window_.push_back(fall);
  if (window_.size() > kWindow) window_.erase(window_.begin());
  if (fired_ || window_.size() < kWindow || median() <= bound_) return {};
  fired_ = true;
  return fmt::format(
      "the completions that it should prefer have become {:.2f} nats a token less likely than under the reference (median of the last {} steps; "
      "--max_chosen_drop {}): the model is collapsing; lower --learning_rate, raise --beta, or add the loss sft",
      median(), kWindow, bound_);
}

bool FallGuard::sound() const { return !(bound_ > 0) || window_.empty() || (median() <= bound_ / 2 && window_.back() <= bound_); }

std::filesystem::path save_bad_batch(const std::filesystem::path& run, int64_t step, const methods::Method& method, std::span<const int64_t> rows) {
  std::string text;
  for (int64_t row : rows) {
    batch::PackedBatch batch;
    method.append(batch, row);
    nlohmann::ordered_json line{{"row", row}, {"ids", batch.token_ids}};
    for (const batch::Segment& s : batch.segments) line["segments"].push_back({s.begin, s.end, s.parent});
    line["predict_from"] = batch.predict_from;
    line["targets"] = batch.targets;
    line["sequence_ids"] = batch.sequence_ids;
    line["weights"] = batch.weights;
    text += line.dump() + "\n";
  }
  const std::filesystem::path path = run / "nonfinite" / fmt::format("step-{}.jsonl", step);
  std::filesystem::create_directories(path.parent_path());
  write_atomic(path, text);
  return path;
}

}  // namespace hone::train
