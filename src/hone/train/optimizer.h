#pragma once
// AdamW with float32 masters (Loshchilov & Hutter, arXiv:1711.05101; the arithmetic of torch.optim.AdamW), gradient norm and clipping.
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "hone/config/run_config.h"
#include "hone/ops/parameter.h"

namespace hone::train {

struct AdamwConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  // on matrices only: never on biases and norms
};

class Adamw {
 public:
  Adamw(std::vector<ops::Parameter*> parameters, const AdamwConfig& config);
  /// One step with gradients multiplied by grad_scale (clipping).
  void step(double learning_rate, double grad_scale);
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  const std::vector<ops::Parameter*>& parameters() const { return parameters_; }
  /// First and second moments of parameter i, like its value.
  at::Tensor& first(size_t i) { return first_[i]; }
  at::Tensor& second(size_t i) { return second_[i]; }
  int64_t state_bytes() const;

 private:
  std::vector<ops::Parameter*> parameters_;
  std::vector<at::Tensor> first_, second_;
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
