#pragma once
// What every method over groups has in common: how a group is packed, what is counted, what can be said before any forward.
//
// A row is a group: its sequences, prompt + completion, have the prompt packed (and computed) once and the completions as its children, cut
// into sub-trees of at most max_tree_tokens. Trained are all tokens of a completion, with its end token; with mask_truncated_completions
// none of a completion that the length limit cut.
//
// Everything is divided by a count over the whole optimizer step, or rollout, known before the forward: micro-batches never matter.
#include <string>
#include <utility>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/methods/on_policy.h"

namespace hone::methods {

class GroupMethod : public OnPolicyMethod {
 public:
  GroupMethod(const config::RunConfig& config, std::vector<std::string> reward_names);

  Scope scope() const override { return Scope::sequence; }
  double temperature() const override { return temperature_; }
  int64_t num_rows() const override { return static_cast<int64_t>(groups_.size()); }
  int64_t row_tokens(int64_t row) const override;
  int64_t input_tokens(int64_t row) const override;
  void append(batch::PackedBatch& batch, int64_t row) const override;
  ReferenceLogprobs* reference() override { return beta_ != 0 ? &reference_ : nullptr; }

  void begin(std::vector<Group> groups) override;
  void update(int64_t index) override { update_ = index; }
  std::vector<double> advantages(int64_t row) const override { return advantages_[row]; }
  std::vector<std::pair<std::string, double>> rollout_metrics() const override;

 protected:
  /// A completion with its place among the predictions of a forward.
  struct Place {
    int64_t row, index;        // of the group, and of the completion in it
    int64_t sequence;          // of the forward
    int64_t begin = 0, count;  // its predictions
  };
  /// In the order of the forward's sequences.
  std::vector<Place> places(const Forward& forward) const;
  struct Counts {
    double completions = 0, tokens = 0, trained_completions = 0;
  };
  Counts count(std::span<const int64_t> rows) const;
  int64_t trained_tokens(int64_t row, int64_t index) const { return masked(row, index) ? 0 : std::ssize(completion(row, index).ids); }
  bool masked(int64_t row, int64_t index) const { return options_.mask_truncated_completions && completion(row, index).truncated; }
  const SampledCompletion& completion(int64_t row, int64_t index) const { return groups_[row].completions[index]; }
  const std::vector<Group>& groups() const { return groups_; }
  /// |p - p sampled| of the first update: sampling/sampling_logp_difference/{mean,max}.
  void report_gap(std::vector<Term>& metrics, const std::vector<Place>& places, std::span<const double> logprobs, const Counts& counts) const;
  /// The reference's log-probabilities of a completion's predictions.
  std::span<const float> reference_of(const Place& place) const;
  /// At the first update of a rollout that has only one, the ratio is exactly 1.
  bool one_update() const { return options_.num_iterations == 1 && options_.steps_per_generation == 1; }

  config::OnPolicyOptions options_;
  double beta_;
  std::vector<std::vector<double>> advantages_;

 private:
  std::vector<batch::Branch> branches(int64_t row) const;
  struct Tokens {
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  double temperature_;
  int64_t max_tree_tokens_;
  int64_t update_ = 0;
  std::vector<std::string> reward_names_;
  std::vector<Group> groups_;
  std::vector<std::vector<Tokens>> tokens_;
  ReferenceLogprobs reference_{0};
};

/// (N) as float64 on the CPU.
std::vector<double> cpu_doubles(const at::Tensor& values);

/// (S) given values whose derivatives with regard to logprobs (N) are given: float64, differentiable.
at::Tensor with_slopes(std::span<const double> values, const at::Tensor& logprobs, std::span<const double> slopes, const Forward& forward);

}  // namespace hone::methods
