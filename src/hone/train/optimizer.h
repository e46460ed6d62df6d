#pragma once
// AdamW with float32 masters (Loshchilov & Hutter, arXiv:1711.05101; the arithmetic of torch.optim.AdamW), its 8-bit form (arXiv:2110.02861;
// the arithmetic of bitsandbytes), gradient norm and clipping.
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/kernels/kernels.h"
#include "hone/ops/parameter.h"

namespace hone::train {

struct AdamwConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  // on matrices only: never on biases and norms
  bool eight_bit = false;     // moments as bitsandbytes' AdamW8bit keeps them; tensors of fewer than 4096 elements stay in float32, as there
  std::filesystem::path spill_folder = {};  // the moments live in a mapped file in this folder; empty: in memory. The bits are the same.
  size_t late_parameters = 0;  // the first so many wait, untouched, until late_steps steps were made; their own count of steps begins then
  int64_t late_steps = 0;
};

/// The moments of one parameter (float32, laid out like its value), or with eight_bit of one part (flat, row-major as in the checkpoint:
/// bytes with an absmax for every 256 elements, or float32 with absmax undefined).
struct Moments {
  ops::Part part;  // all rows of the parameter unless eight_bit
  at::Tensor first, second, first_absmax, second_absmax;
};

class Adamw {
 public:
  Adamw(std::vector<ops::Parameter*> parameters, const AdamwConfig& config);
  /// One step with gradients multiplied by grad_scale (clipping). A parameter's own rate is learning_rate * learning_rate_scale.
  void step(double learning_rate, double grad_scale);
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  const std::vector<ops::Parameter*>& parameters() const { return parameters_; }
  /// Every tensor of the state under a name of its own ("first/NAME", "second_absmax/NAME"), in a fixed order.
  std::vector<std::pair<std::string, at::Tensor>> state_tensors() const;
  int64_t state_bytes() const;
  /// Of these, the bytes that are this process's memory between steps: none where they are spilled.
  int64_t resident_state_bytes() const { return config_.spill_folder.empty() ? state_bytes() : 0; }

 private:
  void allocate();
  void step_whole(ops::Parameter& parameter, Moments& moments, const kernels::AdamwScalars& scalars);
  void step_part(ops::Parameter& parameter, Moments& moments, const kernels::AdamwScalars& scalars) const;
  /// Elements [at, at + count) of a part, at a multiple of 256.
  void step_elements(Moments& moments, int64_t at, int64_t count, float* values, const float* gradients, const kernels::AdamwScalars& scalars) const;
  std::vector<ops::Parameter*> parameters_;
  std::vector<std::vector<Moments>> moments_;  // by parameter
  AdamwConfig config_;
  int64_t steps_ = 0;
};

/// Sum of squares of each parameter's gradient in float64 (fixed blocks, see kernels::sum_squares), in the order given.
std::vector<double> gradient_squares(const std::vector<ops::Parameter*>& parameters);

void zero_gradients(const std::vector<ops::Parameter*>& parameters);

/// The learning rate of optimizer step `step` (0-based) of `total`, as transformers' schedulers: linear warm-up from 0, then constant,
/// linear to 0, or half a cosine to 0.
double scheduled_rate(config::Schedule schedule, double rate, int64_t step, int64_t warmup, int64_t total);

}  // namespace hone::train
