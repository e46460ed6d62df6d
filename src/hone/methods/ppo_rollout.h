#pragma once
// One rollout of PPO as numbers: what the updates over it learn from, computed once between sampling and training.
//
//   score    = sum of the weighted rewards of the completion, scaled, clipped to +-reward_clip, minus missing_eos_penalty where it was cut
//   r_t      = - kl_coef KL_t  (+ score at the episode's last state)          Ziegler et al. 2019 (arXiv:1909.08593), eq. 2, token by token
//   KL_t     = token_kl(old_logprobs[t], reference[t])                        k1 or k3; not in r_t with kl_in_loss
//   A_t, R_t = gae(r, values)                                                 gae.h; a finished episode's last state stands behind its end token
//   A        whitened over all tokens of the rollout; with whiten_rewards r before that over all states, its mean kept
//
// The layout of a row (a group): predictions are its trained completions' tokens one after the other; states are the same with each
// completion's last state behind it (of a cut completion too, where it has no weight).
// Departures from TRL 1.12: an episode that ends exactly at the limit with its end token has a last state like every finished one (there it
// depends on the longest completion beside it); completions without a score are left out; scaling and clipping are those of TRL before 0.12.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/methods/gae.h"
#include "hone/methods/on_policy.h"

namespace hone::methods {

/// What a rollout leaves to the next: belongs to the checkpoint.
struct PpoState {
  int64_t rollouts = 0;  // before the one at hand
  double kl_coef = 0;
  RunningMoments scores;  // of every score so far, before scaling
};

/// A completion that is trained on, by where its numbers stand in its row.
struct PpoEpisode {
  int64_t sample = 0;  // of the group
  int64_t tokens = 0;
  bool finished = false;
  double score = 0;  // as it is learned from
  int64_t states() const { return tokens + (finished ? 1 : 0); }
};

struct PpoRow {
  std::vector<PpoEpisode> episodes;
  std::vector<std::vector<int32_t>> ids;    // of each episode: prompt and completion; of a row without one the prompt
  std::vector<std::vector<float>> weights;  // 1 on the completion's tokens
  std::vector<float> old_logprobs;          // (predictions)
  std::vector<double> advantages;           // (predictions)
  std::vector<float> values;                // (states) of the value model before the first update
  std::vector<double> returns;              // (states)
  int64_t predictions() const { return static_cast<int64_t>(old_logprobs.size()); }
  int64_t states() const { return predictions() + static_cast<int64_t>(episodes.size()); }
};

/// Share of a completion's runs of four tokens that have been there before in it: 0 for text, near 1 for a loop.
double repetition(std::span<const int32_t> ids);

class PpoRollout {
 public:
  /// reward_weights: one for each reward function; empty: all 1. reward_names: of the figures rewards/NAME/*; may be empty.
  PpoRollout(const config::PpoOptions& options, std::vector<double> reward_weights, std::vector<std::string> reward_names = {});

  /// Takes what was sampled and scored; `state` is read for scaling and for kl_coef, and its running moments go on.
  void begin(std::vector<Group> groups, PpoState& state);
  /// The value model's values of a row's states (row(i).states() of them).
  void set_values(int64_t row, std::vector<float> values);
  /// After every row has its reference and its values: advantages and returns; the figures; the next rollout's kl_coef.
  void finish(PpoState& state);

  const config::PpoOptions& options() const { return options_; }
  int64_t num_rows() const { return static_cast<int64_t>(rows_.size()); }
  const PpoRow& row(int64_t index) const { return rows_[index]; }
  const Group& group(int64_t index) const { return groups_[index]; }
  ReferenceLogprobs& reference() { return reference_; }
  const ReferenceLogprobs& reference() const { return reference_; }
  double kl_coef() const { return kl_coef_; }
  bool k3() const { return k3_; }
  /// One for each completion of the group: the mean over its tokens; NaN of one without a score.
  std::vector<double> advantages(int64_t row) const;
  const std::vector<std::pair<std::string, double>>& metrics() const { return metrics_; }

  /// The policy is still the one that sampled: its ratios are 1, and where nothing else stands in the loss its gradient is known before the forward.
  bool fresh = true;
  /// Only the value model learns from this rollout (critic_warmup).
  bool warming = false;

 private:
  std::vector<double> token_kls(int64_t row, const PpoEpisode& episode, int64_t at) const;
  void scale_scores(PpoState& state);
  void report_completions();
  void summarise(double kl, double non_score, double entropy, double episodes, double coefficient);

  config::PpoOptions options_;
  std::vector<double> weights_;
  std::vector<std::string> reward_names_;
  bool k3_ = false;
  double kl_coef_ = 0;
  std::vector<Group> groups_;
  std::vector<PpoRow> rows_;
  ReferenceLogprobs reference_{0};
  std::vector<std::pair<std::string, double>> metrics_;
};

}  // namespace hone::methods
