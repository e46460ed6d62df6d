#include "hone/train/reference_logprobs.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>

#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"
#include "hone/base/threads.h"
#include "hone/data/token_cache.h"
#include "hone/train/reference_cache.h"

namespace hone::train {
namespace {

constexpr double kWriteSeconds = 60;  // at most this much work is lost with a kill

std::string hash_of(const adapters::Adapter& adapter) {
  Hasher hasher;
  for (const ops::Parameter* p : adapter.parameters) {
    const at::Tensor value = p->value.detach().cpu().contiguous();
    hasher.add(p->name());
    hasher.add(value.const_data_ptr(), value.nbytes());
  }
  for (const ops::Parameter* p : adapter.parameters)
    for (const auto& [weight, path] : adapter.set.paths)
      if (&path->a == p)
        for (const ops::SideTarget& t : path->targets) hasher.add(fmt::format("{} {} {}", p->name(), t.r, t.scaling));
  hasher.add(adapter.pissa.empty() ? "" : "pissa");  // the base is then what PiSSA leaves of it
  return hasher.hex();
}

// reference = alpha policy + (1 - alpha) reference: two products and a sum, each rounded, on every CPU.
void mix(ops::Parameter& reference, const ops::Parameter& policy, double alpha) {
  at::NoGradGuard no_grad;
  const auto a = static_cast<float>(alpha), keep = static_cast<float>(1.0 - alpha);
  at::Tensor to = reference.value.detach();
  const at::Tensor from = policy.value.detach();
  check(to.numel() == from.numel(), "{}: the reference has {} values, the policy {}", policy.name(), to.numel(), from.numel());
  if (!to.is_cpu()) {
    to.mul_(keep).add_(from, a);
    return;
  }
  float* r = to.mutable_data_ptr<float>();
  const float* p = from.const_data_ptr<float>();
  parallel_for(to.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) r[i] = keep * r[i] + a * p[i];
  });
}

std::vector<ops::Parameter*> parameters_of(model::Model* model, adapters::Adapter* adapter) {
  if (adapter) return adapter->parameters;
  std::vector<ops::Parameter*> all;
  for (ops::Parameter* p : model->parameters())
    if (p->value.defined()) all.push_back(p);
  return all;
}

}  // namespace

bool score_reference_rows(model::Model& model, ops::AdapterSet* adapters, const methods::Method& method, std::span<const int64_t> rows,
                          int64_t micro_batch_tokens, const std::function<void(int64_t row, std::vector<float> logprobs)>& done,
                          const std::function<bool()>& go_on) {
  if (rows.empty()) return true;
  at::NoGradGuard no_grad;
  std::vector<int64_t> lengths;
  for (int64_t row : rows) lengths.push_back(method.reference_tokens(row));
  model::ensure_positions(model, *std::max_element(lengths.begin(), lengths.end()));
  if (adapters) adapters->dropout.training = false;
  int64_t begin = 0;
  for (int64_t end : batch::plan_micro_batches(lengths, micro_batch_tokens)) {
    if (!go_on()) return false;
    batch::PackedBatch packed;
    std::vector<int64_t> ends;  // of the rows' predictions
    for (int64_t i = begin; i < end; ++i) {
      method.append_reference(packed, rows[i]);
      ends.push_back(packed.num_predictions());
    }
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, model.device);
    const at::Tensor hidden = model::decoder(model, adapters, tensors, {});
    const at::Tensor logprobs =
        ops::token_logprobs(hidden, model.head(adapters), tensors, {method.temperature(), false, std::nullopt}).logprobs.cpu().contiguous();
    const float* p = logprobs.const_data_ptr<float>();
    int64_t from = 0;
    for (int64_t i = begin; i < end; ++i) {
      done(rows[i], {p + from, p + ends[i - begin]});
      from = ends[i - begin];
    }
    begin = end;
  }
  return true;
}

Reference::Reference(const ReferenceSource& source, model::Model& model, const adapters::Adapter* adapter, const methods::Method& method,
                     const methods::Method* eval_method, int64_t micro_batch_tokens)
    : source_(source),
      model_(model),
      adapter_(adapter),
      method_(method),
      eval_method_(eval_method),
      micro_batch_tokens_(micro_batch_tokens),
      adapter_off_(adapter && adapters::is_identity(*adapter)) {}

ops::AdapterSet* Reference::scoring_adapters() const {
  if (source_.moving_adapter) return &source_.moving_adapter->set;
  if (source_.per_rollout && (!adapter_ || adapter_off_)) return nullptr;
  if (!adapter_ || adapters::is_identity(*adapter_)) return nullptr;
  return const_cast<ops::AdapterSet*>(&adapter_->set);  // its dropout is switched off for the pass
}

std::string Reference::policy_key() const {
  const bool off = !scoring_adapters();  // a base under an adapter that changes nothing is the base
  return data::token_cache_key({source_.base_key, off && (!adapter_ || adapter_->pissa.empty()) ? "" : hash_of(*adapter_)});
}

bool Reference::prepare(std::span<const int64_t> rows) {
  if (!source_.logprobs || moving() || source_.per_rollout) return true;
  if (!fill(method_, *source_.logprobs, source_.data_key, rows, "rows")) return false;
  if (!eval_method_) return true;
  std::vector<int64_t> held_out(eval_method_->num_rows());
  std::iota(held_out.begin(), held_out.end(), int64_t{0});
  std::unordered_map<int64_t, double> of_training = std::move(seconds_);
  const bool whole = fill(*eval_method_, *source_.eval_logprobs, source_.eval_data_key, held_out, "held-out rows");
  seconds_ = std::move(of_training);  // the held-out rows are part of no step
  return whole;
}

bool Reference::fill(const methods::Method& method, methods::ReferenceLogprobs& out, const std::string& data_key, std::span<const int64_t> rows,
                     const char* what) {
  ReferenceCache cache(source_.cache_folder, policy_key(), data_key);
  std::vector<int64_t> missing;
  int64_t tokens = 0;
  for (int64_t row : rows) {
    batch::PackedBatch packed;
    method.append_reference(packed, row);
    if (const auto found = cache.find(packed)) {
      out.set(row, {found->begin(), found->end()});
    } else {
      missing.push_back(row);
      tokens += method.reference_tokens(row);
    }
  }
  const double begin = monotonic_seconds();
  double written = begin;
  int64_t computed = 0;
  const auto keep = [&](int64_t row, std::vector<float> logprobs) {
    batch::PackedBatch packed;
    method.append_reference(packed, row);
    cache.add(packed, logprobs);
    out.set(row, std::move(logprobs));
    log_progress("reference", ++computed, static_cast<int64_t>(missing.size()), what);
    if (monotonic_seconds() - written > kWriteSeconds) {
      cache.write();
      written = monotonic_seconds();
    }
  };
  const bool whole =
      score_reference_rows(model_, scoring_adapters(), method, missing, micro_batch_tokens_, keep, [] { return interrupt_signal() == 0; });
  const double seconds = monotonic_seconds() - begin;
  cache.write();
  data::trim_token_caches(source_.cache_folder, source_.cache_limit);
  for (int64_t row : missing)
    seconds_[row] = seconds * static_cast<double>(method.reference_tokens(row)) / static_cast<double>(std::max<int64_t>(1, tokens));
  log_info("reference: {} {} computed, {} from the cache", computed, what, rows.size() - missing.size());
  return whole;
}

void Reference::score(const methods::Method& method, methods::ReferenceLogprobs& out, std::span<const int64_t> rows) {
  score_reference_rows(
      scorer(), scoring_adapters(), method, rows, micro_batch_tokens_,
      [&](int64_t row, std::vector<float> logprobs) { out.set(row, std::move(logprobs)); }, [] { return true; });
}

double Reference::before_step(std::span<const int64_t> rows) {
  if (!source_.logprobs) return 0;
  if (moving()) {
    score(method_, *source_.logprobs, rows);
    return 0;
  }
  double seconds = 0;
  for (int64_t row : rows) {
    check(source_.logprobs->has(row), "row {} is visited and has no reference", row);
    if (const auto found = seconds_.find(row); found != seconds_.end()) {
      seconds += found->second;
      seconds_.erase(found);
    }
  }
  return seconds;
}

void Reference::before_evaluation() {
  if (!source_.eval_logprobs || !moving()) return;
  std::vector<int64_t> rows(eval_method_->num_rows());
  std::iota(rows.begin(), rows.end(), int64_t{0});
  score(*eval_method_, *source_.eval_logprobs, rows);
}

void Reference::score_rollout(methods::ReferenceLogprobs* out, int64_t count) {
  if (!out) return;
  check(source_.moving_model || adapter_off_ || source_.moving_adapter, "a rollout has no reference that stays");
  std::vector<int64_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  score(method_, *out, rows);
}

void Reference::after_step(int64_t step) {
  if (!moving() || source_.sync_steps == 0 || step % source_.sync_steps != 0) return;
  const std::vector<ops::Parameter*> to = parameters_of(source_.moving_model, source_.moving_adapter);
  const std::vector<ops::Parameter*> from = parameters_of(&model_, const_cast<adapters::Adapter*>(adapter_));
  check(to.size() == from.size(), "the reference has {} tensors, the policy {}", to.size(), from.size());
  for (size_t i = 0; i < to.size(); ++i) mix(*to[i], *from[i], source_.sync_alpha);
  restored();
}

std::vector<std::pair<std::string, at::Tensor>> Reference::tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  if (moving() && source_.sync_steps > 0)
    for (const ops::Parameter* p : parameters_of(source_.moving_model, source_.moving_adapter))
      all.emplace_back("reference/" + p->name(), p->value.detach());
  return all;
}

void Reference::restored() {
  if (source_.moving_adapter) adapters::updated(*source_.moving_adapter);
}

}  // namespace hone::train
