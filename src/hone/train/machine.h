#pragma once
// From a configuration to what this machine will do: instruction set, threads, backend, device, and how much memory there is to plan with.
#include <ATen/core/Tensor.h>

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

struct MemoryPlan {
  int64_t micro_batch_tokens = 1024;
  bool checkpointing = false;
  double static_bytes = 0;      // weights, gradients, optimizer
  double activation_bytes = 0;  // of the largest micro-batch
};

/// The micro-batch budget and gradient checkpointing, from memory arithmetic unless given. `longest`: tokens of the longest row.
/// UserError (exit 4) when even the longest row alone with checkpointing does not fit. Neither choice changes a bit of the result.
MemoryPlan plan_memory(const model::ModelConfig& model, const config::LoopOptions& loop, int64_t longest, double available);

}  // namespace hone::train
