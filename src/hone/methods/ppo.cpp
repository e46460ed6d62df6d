#include "hone/methods/ppo.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::methods {
namespace {

std::vector<batch::Branch> branches_of(const PpoRow& row) {
  std::vector<batch::Branch> branches;
  for (size_t e = 0; e < row.ids.size(); ++e) branches.push_back({row.ids[e].data(), row.weights[e].data(), static_cast<int64_t>(row.ids[e].size())});
  return branches;
}

// (S) float64 sums, filled sequence by sequence in data order.
struct Sums {
  explicit Sums(int64_t sequences) : tensor(at::zeros({sequences}, at::kDouble)), data(tensor.mutable_data_ptr<double>()) {}
  at::Tensor tensor;
  double* data;
};

at::Tensor float_tensor(int64_t size) { return at::zeros({size}, at::kFloat); }

// Zero, with the slopes (N) as its derivative by `values` (N): each loss is made by scalar operations of its own, whatever stands beside it.
at::Tensor zero_with_slopes(const at::Tensor& values, const at::Tensor& slopes, const at::Tensor& sequence_ids, int64_t sequences) {
  return ops::sequence_sum(slopes.to(values.device()) * (values - values.detach()), sequence_ids, sequences);
}

// One token under the policy's loss.
struct PpoTokenLoss {
  ClippedLoss policy;
  double kl = 0, slope = 0;  // slope: of all that the log-probability decides
};
PpoTokenLoss token_loss(const PpoRollout& rollout, int64_t row, int64_t token, double logprob) {
  const config::PpoOptions& o = rollout.options();
  const PpoRow& r = rollout.row(row);
  PpoTokenLoss out{clipped_policy_loss(logprob, r.old_logprobs[token], r.advantages[token], o.cliprange, o.dual_clip.value_or(0.0))};
  out.slope = out.policy.slope;
  const double reference = rollout.reference().of(row)[token];
  out.kl = token_kl(logprob, reference, true);
  if (!o.kl_in_loss) return out;
  out.slope += rollout.kl_coef() * (1.0 - kernels::exact_exp(reference - logprob));  // d k3 / d logprob
  return out;
}

double total_predictions(const PpoRollout& rollout, std::span<const int64_t> rows) {
  int64_t total = 0;
  for (const int64_t r : rows) total += rollout.row(r).predictions();
  return static_cast<double>(std::max<int64_t>(1, total));
}

}  // namespace

ClippedLoss clipped_policy_loss(double logprob, double old_logprob, double advantage, double cliprange, double dual_clip) {
  const double ratio = kernels::exact_exp(logprob - old_logprob);
  const double plain = -advantage * ratio, clipped = -advantage * std::clamp(ratio, 1.0 - cliprange, 1.0 + cliprange);
  // A NaN compares with nothing and stays; inside the range both are the same.
  ClippedLoss out = clipped > plain ? ClippedLoss{clipped, 0.0, true} : ClippedLoss{plain, plain, false};
  if (dual_clip > 0 && advantage < 0 && out.loss > -advantage * dual_clip) out = {-advantage * dual_clip, 0.0, true};
  return out;
}

ClippedLoss clipped_value_loss(double value, double old_value, double target, double cliprange) {
  const double near = std::clamp(value, old_value - cliprange, old_value + cliprange);
  const double plain = (value - target) * (value - target), clipped = (near - target) * (near - target);
  if (clipped > plain) return {0.5 * clipped, 0.0, true};
  return {0.5 * plain, value - target, false};
}

int64_t PpoPolicy::row_tokens(int64_t row) const { return batch::tree_tokens(branches_of(rollout_->row(row)), max_tree_tokens_); }
int64_t PpoValue::row_tokens(int64_t row) const { return batch::tree_tokens(branches_of(rollout_->row(row)), max_tree_tokens_); }

int64_t PpoPolicy::input_tokens(int64_t row) const {
  int64_t tokens = 0;
  for (const std::vector<int32_t>& ids : rollout_->row(row).ids) tokens += static_cast<int64_t>(ids.size());
  return tokens;
}
int64_t PpoValue::input_tokens(int64_t) const { return 0; }  // the policy counts them

void PpoPolicy::append(batch::PackedBatch& batch, int64_t row) const { batch::append_tree(batch, branches_of(rollout_->row(row)), max_tree_tokens_); }
void PpoValue::append(batch::PackedBatch& batch, int64_t row) const { batch::append_tree(batch, branches_of(rollout_->row(row)), max_tree_tokens_); }

std::vector<double> PpoPolicy::counts(std::span<const int64_t> rows) const { return {total_predictions(*rollout_, rows)}; }

std::vector<double> PpoValue::counts(std::span<const int64_t> rows) const {
  double states = total_predictions(*rollout_, rows);
  for (const int64_t r : rows)
    for (const PpoEpisode& e : rollout_->row(r).episodes) states += e.finished ? 1 : 0;
  return {states};
}

// A rollout's first update: the log-probabilities are those that were sampled, to the bit, so that dL/dlogprob needs no forward.
std::optional<at::Tensor> PpoPolicy::known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows, const StepInputs& step) const {
  if (!rollout_->fresh || entropy_coef_ > 0) return std::nullopt;
  at::Tensor slopes = float_tensor(batch.weights.numel());
  float* slope = slopes.mutable_data_ptr<float>();
  int64_t n = 0;
  for (const int64_t r : rows)
    for (int64_t t = 0; t < rollout_->row(r).predictions(); ++t, ++n) {
      check(n < slopes.numel(), "{} predictions, more expected", slopes.numel());
      slope[n] = static_cast<float>(token_loss(*rollout_, r, t, rollout_->row(r).old_logprobs[t]).slope);
    }
  // The roundings of the backward of evaluate below: 1 / count to float32, times the slope.
  return slopes.to(batch.weights.device()) * static_cast<float>(1.0 / step.counts[0]);
}

MethodOutput PpoPolicy::evaluate(const Forward& forward, const StepInputs& step) const {
  const config::PpoOptions& o = rollout_->options();
  const int64_t N = forward.weights.numel(), S = forward.num_sequences;
  const at::Tensor fixed = forward.logprobs.logprobs.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* logprob = fixed.const_data_ptr<double>();
  at::Tensor slopes = float_tensor(N);
  float* slope = slopes.mutable_data_ptr<float>();
  Sums policy(S), kl(S), squares(S), clipped(S), ratios(S), ratio_squares(S), gaps(S);
  int64_t n = 0, s = 0;
  for (const int64_t r : forward.rows) {
    int64_t at = 0;
    if (rollout_->row(r).episodes.empty()) ++s;
    for (const PpoEpisode& e : rollout_->row(r).episodes) {
      for (const int64_t end = at + e.tokens; at < end; ++at, ++n) {
        check(n < N, "{} predictions, more expected", N);
        const PpoTokenLoss loss = token_loss(*rollout_, r, at, logprob[n]);
        const double difference = logprob[n] - rollout_->row(r).old_logprobs[at];
        policy.data[s] += loss.policy.loss;
        clipped.data[s] += loss.policy.clipped ? 1 : 0;
        squares.data[s] += 0.5 * difference * difference;
        const double ratio = kernels::exact_exp(difference);
        ratios.data[s] += ratio;
        ratio_squares.data[s] += (ratio - 1) * (ratio - 1);
        gaps.data[s] += std::abs(difference);
        kl.data[s] += loss.kl;
        slope[n] = static_cast<float>(loss.slope);
      }
      ++s;
    }
  }
  check(n == N && s == S, "{} predictions of {} sequences, expected {} of {}", N, S, n, s);
  const double count = step.counts[0];
  at::Tensor loss = policy.tensor + zero_with_slopes(forward.logprobs.logprobs, slopes, forward.sequence_ids, S).cpu();
  if (o.kl_in_loss) loss = loss + rollout_->kl_coef() * kl.tensor;
  const at::Tensor entropy = ops::sequence_sum(forward.logprobs.entropy, forward.sequence_ids, S);
  if (entropy_coef_ > 0) loss = loss - entropy_coef_ * entropy;
  MethodOutput out;
  out.losses.push_back({"loss", loss, count});
  out.metrics = {{"loss/policy_avg", policy.tensor, count},
                 {"policy/approxkl_avg", squares.tensor, count},
                 {"policy/clipfrac_avg", clipped.tensor, count},
                 {"policy/entropy_avg", entropy.detach(), count},
                 {"val/ratio", ratios.tensor, count},
                 {"val/ratio_var", ratio_squares.tensor, count},
                 {"kl", kl.tensor, count}};
  if (rollout_->fresh) out.metrics.push_back({"sampling/sampling_logp_difference/mean", gaps.tensor, count});
  return out;
}

MethodOutput PpoValue::evaluate(const Forward& forward, const StepInputs& step) const {
  const config::PpoOptions& o = rollout_->options();
  const int64_t M = forward.values.numel(), S = forward.num_sequences;
  const at::Tensor fixed = forward.values.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* value = fixed.const_data_ptr<double>();
  at::Tensor slopes = float_tensor(M), ids = at::zeros({M}, at::kLong);
  float* slope = slopes.mutable_data_ptr<float>();
  int64_t* id = ids.mutable_data_ptr<int64_t>();
  Sums losses(S), clipped(S);
  int64_t m = 0, s = 0;
  for (const int64_t r : forward.rows) {
    const PpoRow& row = rollout_->row(r);
    int64_t at = 0;
    if (row.episodes.empty()) {
      check(m < M, "{} values, more expected", M);
      id[m++] = s++;
    }
    for (const PpoEpisode& e : row.episodes) {
      check(m + e.tokens < M, "{} values, more expected", M);
      for (int64_t t = 0; t <= e.tokens; ++t, ++at, ++m) {
        id[m] = s;
        if (t == e.states()) continue;  // behind a cut: no state of the episode
        const ClippedLoss loss = clipped_value_loss(value[m], row.values[at], row.returns[at], o.cliprange_value);
        slope[m] = static_cast<float>(o.vf_coef * loss.slope);
        losses.data[s] += loss.loss;
        clipped.data[s] += loss.clipped ? 1 : 0;
      }
      ++s;
    }
  }
  check(m == M && s == S, "{} values of {} sequences, expected {} of {}", M, S, m, s);
  const double count = step.counts[0];
  MethodOutput out;
  const at::Tensor zero = zero_with_slopes(forward.values, slopes, ids.to(forward.values.device()), S);
  out.losses.push_back({"value_loss", o.vf_coef * losses.tensor + zero.cpu(), count});
  out.metrics = {{"loss/value_avg", losses.tensor, count}, {"val/clipfrac_avg", clipped.tensor, count}};
  return out;
}

}  // namespace hone::methods
