#include "hone/train/step.h"

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"

namespace hone::train {
namespace {

void add_pass(StepSums& all, StepSums&& pass) {
  all.loss += pass.loss;
  all.metrics.insert(all.metrics.end(), pass.metrics.begin(), pass.metrics.end());
  all.largest_micro_batch = std::max(all.largest_micro_batch, pass.largest_micro_batch);
}

std::vector<ops::Parameter*> parameters_of(const Pass& pass, double loraplus_lr_ratio) {
  if (pass.adapter) {
    for (ops::Parameter* p : pass.adapter->parameters)
      if (loraplus_lr_ratio > 0 && p->name().ends_with(".lora_B.weight")) p->learning_rate_scale = loraplus_lr_ratio;  // arXiv:2402.12354
    return pass.adapter->parameters;
  }
  std::vector<ops::Parameter*> parameters;
  for (ops::Parameter* p : pass.model->parameters()) {
    if (!p->trainable) continue;
    if (!p->grad.defined()) ops::enable_gradient(*p);
    parameters.push_back(p);
  }
  return parameters;
}

}  // namespace

std::vector<ops::Parameter*> trained_parameters(std::span<const Pass> passes, double loraplus_lr_ratio) {
  std::vector<ops::Parameter*> all;
  for (const Pass& pass : passes) {
    const std::vector<ops::Parameter*> own = parameters_of(pass, loraplus_lr_ratio);
    all.insert(all.end(), own.begin(), own.end());
  }
  check(!all.empty(), "nothing to train");
  return all;
}

StepOutcome backward_step(std::span<const Pass> passes, std::span<const int64_t> rows, const std::vector<ops::Parameter*>& parameters,
                          const StepOptions& options) {
  zero_gradients(parameters);
  StepOutcome out;
  for (const Pass& pass : passes) {
    if (pass.adapter) pass.adapter->set.dropout = {pass.adapter->config.lora_dropout, true, options.seed, static_cast<uint32_t>(options.step), {}};
    std::vector<int64_t> run;
    for (const int64_t row : rows)
      if (!options.skip_without_gradient || pass.method->has_gradient(row)) run.push_back(row);
    StepSums sums;  // of a step without anything to learn from: loss and gradients are exactly 0
    if (!run.empty())
      sums = run_rows(*pass.model, *pass.method, run,
                      {.micro_batch_tokens = options.micro_batch_tokens,
                       .training = true,
                       .checkpointing = options.checkpointing,
                       .checkpoint_above = options.checkpoint_above,
                       .adapters = pass.adapter_set(),
                       .step_rows = run.size() < rows.size() ? rows : std::span<const int64_t>()});
    sums.tokens = 0;
    for (const int64_t row : rows) sums.tokens += pass.method->input_tokens(row);
    if (&pass == &passes.front())
      out.sums = std::move(sums);
    else
      add_pass(out.sums, std::move(sums));
  }
  out.squares = gradient_squares(parameters);
  double total = 0;
  for (const double s : out.squares) total += s;
  out.norm = std::sqrt(total);
  out.finite = std::isfinite(out.sums.loss) && std::isfinite(out.norm);
  return out;
}

void update(std::span<const Pass> passes, Adamw& optimizer, double rate, double norm, double max_norm) {
  optimizer.step(rate, max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0);
  values_changed(passes);
}

void values_changed(std::span<const Pass> passes) {
  for (const Pass& pass : passes)
    if (pass.adapter) adapters::updated(*pass.adapter);
}

}  // namespace hone::train
