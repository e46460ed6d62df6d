#pragma once
// The reference of a run: "the policy at step 0", defined once, whatever is trained.
//   the model itself     the freshly loaded model, before its first update (on --resume: before the checkpoint is restored)
//   an adapter           the adapter switched off where it changes nothing yet, else its first values, before the first update
// So no second model is held: the log-probabilities of exactly the rows that the run will visit are computed beforehand, packed, without
// gradient, and kept on disk (reference_cache.h). They are the bits of the training forward, whatever is batched with what.
//
// With --sync_ref_model (TR-DPO, arXiv:2404.09656, soft update) the reference follows the policy: after every `sync_steps` steps
//   reference = alpha policy + (1 - alpha) reference     tensor by tensor, of what is trained
// Its tensors stand beside the policy's (a second model, or a copy of the adapter), belong to the checkpoint, and score the rows of each step
// when their turn comes; nothing of that is kept on disk.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "hone/adapters/lora.h"
#include "hone/methods/method.h"
#include "hone/model/decoder.h"

namespace hone::train {

/// What the application says of a run's reference.
struct ReferenceSource {
  methods::ReferenceLogprobs* logprobs = nullptr;       // of the method; null: the method is measured against nothing
  methods::ReferenceLogprobs* eval_logprobs = nullptr;  // of the held-out rows
  std::string base_key;                                 // of the base: content, quantisation, backend
  std::string data_key, eval_data_key;
  std::filesystem::path cache_folder;
  uint64_t cache_limit = 0;  // bytes that the folder may hold
  // --sync_ref_model: copies of their own, of what is trained
  model::Model* moving_model = nullptr;
  adapters::Adapter* moving_adapter = nullptr;
  double sync_alpha = 0;
  int64_t sync_steps = 0;  // 0: they stay as they are
  /// On-policy: the rows are sampled as the run goes on, and scored then. The model itself needs moving_model, a copy of it that stays.
  bool per_rollout = false;
};

class Reference {
 public:
  Reference(const ReferenceSource& source, model::Model& model, const adapters::Adapter* adapter, const methods::Method& method,
            const methods::Method* eval_method, int64_t micro_batch_tokens);

  /// To be called before the first update and before a checkpoint is restored: the rows that the run will visit (each once) and all held-out
  /// rows. False: a signal came in between; what was computed is kept.
  bool prepare(std::span<const int64_t> rows);
  /// Before the rows are trained on. Returns the seconds of prepare that these rows took, each time once: they belong to their step.
  double before_step(std::span<const int64_t> rows);
  void before_evaluation();
  /// On-policy: scores rows 0 .. count - 1 of the method into `out`; nothing where that is null.
  void score_rollout(methods::ReferenceLogprobs* out, int64_t count);
  /// After optimizer step number `step` (from 1).
  void after_step(int64_t step);
  /// What a checkpoint must hold of it.
  std::vector<std::pair<std::string, at::Tensor>> tensors() const;
  /// After they were restored.
  void restored();

 private:
  bool moving() const { return source_.moving_model || source_.moving_adapter; }
  model::Model& scorer() const { return source_.moving_model ? *source_.moving_model : model_; }
  ops::AdapterSet* scoring_adapters() const;
  std::string policy_key() const;
  bool fill(const methods::Method& method, methods::ReferenceLogprobs& out, const std::string& data_key, std::span<const int64_t> rows,
            const char* what);
  void score(const methods::Method& method, methods::ReferenceLogprobs& out, std::span<const int64_t> rows);

  ReferenceSource source_;
  model::Model& model_;
  const adapters::Adapter* adapter_;
  const methods::Method& method_;
  const methods::Method* eval_method_;
  int64_t micro_batch_tokens_;
  bool adapter_off_;                             // the adapter changes nothing at step 0: the reference is the base
  std::unordered_map<int64_t, double> seconds_;  // by row, of those that prepare computed and no step has visited
};

/// Calls done(row, logprobs) for each of the rows, in order: what the policy gives for the predictions of Method::append_reference. Stops
/// between micro-batches where `go_on` says no (false then).
bool score_reference_rows(model::Model& model, ops::AdapterSet* adapters, const methods::Method& method, std::span<const int64_t> rows,
                          int64_t micro_batch_tokens, const std::function<void(int64_t row, std::vector<float> logprobs)>& done,
                          const std::function<bool()>& go_on);

}  // namespace hone::train
