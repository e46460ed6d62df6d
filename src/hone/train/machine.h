#pragma once
// From a configuration to what this machine will do: instruction set, threads, backend, device, and how much memory there is to plan with.
#include <ATen/core/Tensor.h>

#include <limits>
#include <string>

#include "hone/config/run_config.h"
#include "hone/model/config.h"
#include "hone/ops/parameter.h"

namespace hone::train {

struct Machine {
  ops::Backend backend = ops::Backend::kernels;
  at::Device device = at::kCPU;
  std::string isa;  // "avx2", "avx512"
  int threads = 1;
};

/// Sets instruction set and threads for the process. UserError for what this machine or this build does not have.
Machine apply_machine_options(const config::MachineOptions& options);

/// Bytes of memory that are free for this process: MemAvailable, bounded by the control group's limit.
double available_memory();

/// What a run holds whatever its micro-batches: the base (float32, or 4-bit blocks), what is trained with its gradient, and its optimizer.
struct MemoryDemand {
  double weights = 0;        // bytes of the base
  double trained = 0;        // elements that are trained beside the base (adapter), else the base's own
  bool adapter = false;      // `trained` has values of its own
  double optimizer = 8;      // bytes of optimizer state an element
  int64_t adapter_rank = 0;  // see model::activation_bytes_per_token
  bool on_policy = false;    // a step also samples: computing the blocks twice is a small share of it
  double total(bool with_optimizer) const;
};
MemoryDemand memory_demand(const model::ModelConfig& model, const config::RunConfig& config);

/// Tokens of the rows that a run will see.
struct RowLengths {
  int64_t longest = 1;
  double mean = 1;
};

struct MemoryPlan {
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  int64_t micro_batch_tokens = 512;
  bool checkpointing = false;
  int64_t checkpoint_above = kNever;  // micro-batches of more tokens than this (rows longer than the budget) are checkpointed anyway
  bool spill_optimizer = false;       // its states do not fit: they go to a mapped file
  double static_bytes = 0;            // weights, adapters, gradients, optimizer in memory
  double activation_bytes = 0;        // of the largest micro-batch
  int64_t activation_bytes_per_token = 0;
};

/// The micro-batch budget, gradient checkpointing and spilling, from memory arithmetic unless given. On-policy runs are checkpointed where the
/// activations of a group would set the peak: they also sample, so that it costs them a small share of the step. With an adapter the few rows that
/// alone exceed the budget are checkpointed, so that they do not decide the peak. UserError (exit 4) when even the longest row alone with
/// checkpointing does not fit. None of these choices changes a bit of the result.
MemoryPlan plan_memory(const model::ModelConfig& model, const MemoryDemand& demand, const config::LoopOptions& loop, const RowLengths& rows,
                       double available);

}  // namespace hone::train
