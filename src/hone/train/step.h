#pragma once
// One optimizer step over what a run trains: forward and backward of every pass, the norm of all gradients, clipping, the update.
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "hone/adapters/lora.h"
#include "hone/methods/method.h"
#include "hone/model/decoder.h"
#include "hone/train/micro_batch.h"
#include "hone/train/optimizer.h"

namespace hone::train {

/// One set of tensors that a run trains, and what it learns from. Several passes (PPO: the policy, the value model) run over the same rows of
/// a step, and one optimizer owns all their parameters.
struct Pass {
  model::Model* model = nullptr;
  adapters::Adapter* adapter = nullptr;  // what is trained, on the frozen model; null: the model itself
  const methods::Method* method = nullptr;

  ops::AdapterSet* adapter_set() const { return adapter ? &adapter->set : nullptr; }
};

/// The parameters of all passes, each with a gradient buffer. LoRA+'s ratio is set where it is above 0.
std::vector<ops::Parameter*> trained_parameters(std::span<const Pass> passes, double loraplus_lr_ratio);

struct StepOptions {
  int64_t micro_batch_tokens = 1024;
  bool checkpointing = false;
  int64_t checkpoint_above = std::numeric_limits<int64_t>::max();
  uint64_t seed = 0;
  int64_t step = 0;                    // from 0; keys the dropout, with the seed
  bool skip_without_gradient = false;  // rows of which the method says so are left out of forward and backward
};

struct StepOutcome {
  StepSums sums;                // of all passes: losses added, metrics joined; tokens of the first
  std::vector<double> squares;  // of the gradients, by parameter
  double norm = 0;
  bool finite = true;  // loss and norm
};

/// Zeroes the gradients, then forward and backward of every pass over the rows.
StepOutcome backward_step(std::span<const Pass> passes, std::span<const int64_t> rows, const std::vector<ops::Parameter*>& parameters,
                          const StepOptions& options);

/// One update, clipped as torch.nn.utils.clip_grad_norm_ does: the coefficient is max_norm / (norm + 1e-6), at most 1; max_norm 0: none.
void update(std::span<const Pass> passes, Adamw& optimizer, double rate, double norm, double max_norm);

/// To be called when the trained values were changed by anything else (a checkpoint).
void values_changed(std::span<const Pass> passes);

}  // namespace hone::train
