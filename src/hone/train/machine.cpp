#include "hone/train/machine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <string>

#include "hone/base/error.h"
#include "hone/base/memory.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"
#include "hone/model/decoder.h"

namespace hone::train {
namespace {

// Enough rows for full-rate products; more costs memory and gains nothing. Adapters are there to save memory: a little less, for 3 % of the speed.
constexpr int64_t kPreferredTokens = 512, kPreferredAdapterTokens = 256;
constexpr double kUsableShare = 0.85;  // of the available memory
constexpr double kLargeShare = 0.25;   // of what a run holds anyway: more activations than that set its peak
constexpr double kFixedBytes = 350e6;  // LibTorch, buffers, the token cache

}  // namespace

Machine apply_machine_options(const config::MachineOptions& o) {
  Machine machine;
  if (o.device == config::Device::cuda && !at::hasCUDA())
    fail("--device cuda: this build's LibTorch has no CUDA; GPUs come with a later version, use --device cpu");
  if (o.dtype == config::Dtype::bfloat16) fail("--dtype bfloat16 comes with a later version; use float32");
  if (o.isa != config::IsaChoice::automatic) kernels::force_isa(o.isa == config::IsaChoice::avx512 ? kernels::Isa::avx512 : kernels::Isa::avx2);
  set_threads(static_cast<int>(o.threads.value_or(0)));
  machine.device = o.device == config::Device::cuda ? at::Device(at::kCUDA) : at::Device(at::kCPU);
  machine.backend = o.kernels == config::KernelChoice::reference || !machine.device.is_cpu() ? ops::Backend::reference : ops::Backend::kernels;
  // With hone's kernels ATen is left with trifles; OpenMP threads that spin after them would take the processors from our own.
  at::set_num_threads(machine.backend == ops::Backend::kernels ? 1 : threads());
  machine.isa = kernels::isa_name(kernels::active_isa());
  machine.threads = threads();
  return machine;
}

double available_memory() { return hone::available_memory(); }

double MemoryDemand::total(bool with_optimizer) const {
  return weights + trained * (4.0 + (adapter ? 4.0 : 0.0) + (with_optimizer ? optimizer : 0.0));  // gradient, value of its own, state
}

MemoryDemand memory_demand(const model::ModelConfig& m, const config::RunConfig& c) {
  MemoryDemand demand;
  double linears = 0, rest = 0;
  for (const model::TensorSpec& t : model::expected_tensors(m)) {
    const bool linear = t.shape.size() == 2 && t.name.find("_proj.") != std::string::npos;
    (linear ? linears : rest) += static_cast<double>(t.elements());
  }
  // 4 bits a weight and a float32 absmax for 64 of them; GGUF's blocks: scale and minimum for 32.
  const double four_bits = 0.5 + (c.bnb_4bit_quant_type == config::QuantType::gguf ? 8.0 / 32 : 4.0 / 64);
  demand.weights = 4 * rest + (c.load_in_4bit ? four_bits : 4.0) * linears;
  demand.optimizer = c.optim == config::Optimizer::adamw_8bit ? 2 + 8.0 / 256 : 8;
  demand.trained = linears + rest;
  return demand;
}

MemoryPlan plan_memory(const model::ModelConfig& m, const MemoryDemand& demand, const config::LoopOptions& loop, const RowLengths& rows,
                       double available) {
  MemoryPlan plan;
  const int64_t longest = rows.longest, preferred = demand.adapter ? kPreferredAdapterTokens : kPreferredTokens;
  // Where most rows fit the preferred budget, computing the others twice costs little, and they would set the peak.
  const bool long_rows_again = demand.adapter && rows.mean <= static_cast<double>(preferred);
  const double fixed = kFixedBytes + 4.0 * static_cast<double>(m.vocab_size) * static_cast<double>(ops::kLogprobChunk);
  const auto bytes_of = [&](int64_t tokens, bool checkpointing) {
    return static_cast<double>(tokens) * static_cast<double>(model::activation_bytes_per_token(m, checkpointing, demand.adapter_rank));
  };
  // A resumed run keeps what it was told or decided before.
  const double least = bytes_of(longest, long_rows_again || loop.gradient_checkpointing.value_or(true));
  plan.spill_optimizer = kUsableShare * available < demand.total(true) + fixed + least;
  plan.static_bytes = demand.total(!plan.spill_optimizer) + fixed;
  const double room = kUsableShare * available - plan.static_bytes;
  if (room < least)
    fail_resource(
        "training needs {:.1f} GB for weights and gradients (the optimizer's states would go to disk) and {:.1f} GB for the longest row ({} tokens), "
        "but {:.1f} GB are free; train an adapter (--use_peft, --load_in_4bit), lower --max_length, or use a smaller model",
        plan.static_bytes / 1e9, least / 1e9, longest, available / 1e9);
  const int64_t lowest = long_rows_again ? std::min(longest, preferred) : longest;  // a budget that holds every row that is not computed twice
  const bool short_of_room = room < bytes_of(std::max(lowest, loop.micro_batch_tokens.value_or(lowest)), false);
  const bool set_the_peak =
      demand.on_policy && bytes_of(std::max(lowest, loop.micro_batch_tokens.value_or(preferred)), false) > kLargeShare * plan.static_bytes;
  plan.checkpointing = loop.gradient_checkpointing.value_or(set_the_peak || short_of_room);
  const auto fit = static_cast<int64_t>(std::max(0.0, room) / bytes_of(1, plan.checkpointing));
  plan.micro_batch_tokens = loop.micro_batch_tokens.value_or(std::clamp(fit, std::min(fit, lowest), std::max(lowest, preferred)));
  if (long_rows_again) plan.checkpoint_above = plan.micro_batch_tokens;
  plan.activation_bytes_per_token = model::activation_bytes_per_token(m, plan.checkpointing, demand.adapter_rank);
  plan.activation_bytes = long_rows_again
                              ? std::max(bytes_of(std::min(longest, plan.micro_batch_tokens), plan.checkpointing), bytes_of(longest, true))
                              : bytes_of(std::max(longest, plan.micro_batch_tokens), plan.checkpointing);
  return plan;
}

}  // namespace hone::train
