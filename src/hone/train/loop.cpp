#include "hone/train/loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "hone/base/files.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"
#include "hone/data/shuffle.h"
#include "hone/train/checkpoint.h"
#include "hone/train/guards.h"
#include "hone/train/micro_batch.h"

namespace hone::train {
namespace {

constexpr int64_t kBadStepsInARow = 3;  // non-finite steps in a row that stop a run
constexpr double kMiB = 1024.0 * 1024.0;

// What changes from step to step; with the tensors, this is the complete state of a run.
struct Progress {
  int64_t step = 0;    // finished steps, applied or not
  int64_t tokens = 0;  // real input tokens so far
  int64_t bad_in_a_row = 0;
  int64_t bad_steps = 0;  // steps that were not applied
  int64_t largest_micro_batch = 0;
  double best = std::numeric_limits<double>::quiet_NaN();  // of metric_for_best_model
  int64_t best_step = -1;
  double seconds = 0;  // of training so far, over all starts
};

class Loop {
 public:
  explicit Loop(const TrainJob& job)
      : job_(job),
        c_(*job.config),
        optimizer_(trainable(job), {c_.adam_beta1, c_.adam_beta2, c_.adam_epsilon, c_.weight_decay, c_.optim == config::Optimizer::adamw_8bit,
                                    job.spill_optimizer ? job.run : std::filesystem::path{}}),
        guard_(optimizer_.parameters()),
        order_(job.method->num_rows(), c_.batch_size, static_cast<uint64_t>(c_.seed), c_.shuffle_dataset) {
    result_.total_steps = total_steps(c_, job.method->num_rows());
    eval_every_ = c_.eval_steps.value_or(order_.steps_per_epoch());
  }

  TrainResult run() {
    check_disk();
    if (c_.resume) resume();
    if (job_.started) job_.started(progress_.step > 0);
    started_ = monotonic_seconds();
    metrics_ = std::make_unique<MetricsWriter>(job_.run / "metrics.jsonl", progress_.step);
    while (progress_.step < result_.total_steps) {
      if (!one_step()) return finish();
      if (should_stop()) return finish();
    }
    if (c_.load_best_model_at_end && progress_.best_step >= 0 && progress_.best_step != progress_.step) {
      const std::string problem = verify_checkpoint(checkpoint_path(job_.run, progress_.best_step));
      if (problem.empty()) {
        load_checkpoint(job_.run, progress_.best_step, optimizer_, /*weights_only=*/true);
        if (job_.adapter) adapters::updated(*job_.adapter);
        log_info("the model is the best by {}: step {}", metric_name(), progress_.best_step);
      } else {
        log_warning("the best checkpoint cannot be used, model/ is the last step: {}", problem);
      }
    }
    job_.save_model(job_.run / "model");
    return finish();
  }

 private:
  static std::vector<ops::Parameter*> trainable(const TrainJob& job) {
    std::vector<ops::Parameter*> parameters;
    if (job.adapter) {
      const double ratio = job.config->loraplus_lr_ratio;
      for (ops::Parameter* p : job.adapter->parameters)
        if (ratio > 0 && p->name().ends_with(".lora_B.weight")) p->learning_rate_scale = ratio;  // LoRA+, arXiv:2402.12354
      return job.adapter->parameters;
    }
    for (ops::Parameter* p : job.model->parameters()) {
      if (!p->trainable) continue;
      if (!p->grad.defined()) ops::enable_gradient(*p);
      parameters.push_back(p);
    }
    check(!parameters.empty(), "nothing to train");
    return parameters;
  }

  ops::AdapterSet* adapter_set() const { return job_.adapter ? &job_.adapter->set : nullptr; }

  std::string metric_name() const { return c_.metric_for_best_model == config::BestMetric::eval_loss ? "eval_loss" : "eval_mean_token_accuracy"; }

  // The best checkpoint is always kept, unless the run writes none at all (--save_steps 0).
  bool keeps_best() const { return job_.eval_method && (c_.save_steps > 0 || c_.load_best_model_at_end); }

  // Room for the checkpoints that stand at once, the one being written, and the model.
  void check_disk() const {
    const int64_t written = c_.save_steps > 0 ? (result_.total_steps + c_.save_steps - 1) / c_.save_steps : 0;  // one at the end, too
    const int64_t kept = std::min(written, c_.save_total_limit.value_or(written)) + (keeps_best() ? 1 : 0);
    const int64_t standing = c_.resume ? static_cast<int64_t>(list_checkpoints(job_.run).size()) : 0;
    const double needed =
        static_cast<double>(checkpoint_bytes(optimizer_)) * static_cast<double>(std::max<int64_t>(0, kept - standing) + 1) +
        static_cast<double>(job_.model_bytes);
    const double free = static_cast<double>(free_bytes(job_.run));
    if (free < needed)
      fail_resource(
          "{}: {:.0f} MiB are free but the checkpoints and the model of this run need {:.0f} MiB; free some, or give --save_total_limit or a larger "
          "--save_steps",
          job_.run.string(), free / kMiB, needed / kMiB);
  }

  void resume() {
    const std::optional<int64_t> step = newest_checkpoint(job_.run);
    if (!step) {
      log_info("--resume: no complete checkpoint in {}: starting at step 0", job_.run.string());
      return;
    }
    const CheckpointState state = read_state(job_.run, *step);
    compare_identity(state.data.at("identity"));
    load_checkpoint(job_.run, *step, optimizer_);
    if (job_.adapter) adapters::updated(*job_.adapter);
    const Json& p = state.data.at("progress");
    progress_ = {state.step,     p.at("tokens"),    p.at("bad_in_a_row"), p.at("bad_steps"), p.at("largest_micro_batch"),
                 progress_.best, p.at("best_step"), p.at("seconds")};
    if (!p.at("best").is_null()) progress_.best = p.at("best");
    order_.seek({p.at("epoch"), p.at("index")});
    result_.last_metrics = state.data.at("last_metrics");
    result_.last_eval = state.data.at("last_eval");
    if (optimizer_.steps() > c_.warmup_steps + 1) guard_.skip();
    remove_torn_checkpoints(job_.run);
    log_info("resuming after step {} of {}", progress_.step, result_.total_steps);
  }

  void compare_identity(const Json& recorded) const {
    std::string differences;
    for (const auto& [key, value] : job_.identity.items())
      if (!recorded.contains(key) || recorded.at(key) != value)
        differences += fmt::format("{}{}: was {}, now {}", differences.empty() ? "" : "; ", key,
                                   recorded.contains(key) ? recorded.at(key).dump() : "absent", value.dump());
    if (!differences.empty())
      fail("--resume: this is not the run in {} ({}); give the same options, or another --output_dir", job_.run.string(), differences);
  }

  // False: the run ends here (guard).
  bool one_step() {
    const double begin = monotonic_seconds();
    const std::vector<int64_t> rows = order_.next();
    const int64_t step = progress_.step;
    zero_gradients(optimizer_.parameters());
    if (job_.adapter)
      job_.adapter->set.dropout = {job_.adapter->config.lora_dropout, true, static_cast<uint64_t>(c_.seed), static_cast<uint32_t>(step), {}};
    const StepSums sums = run_rows(*job_.model, *job_.method, rows, {job_.micro_batch_tokens, true, job_.checkpointing, adapter_set()});
    const std::vector<double> squares = gradient_squares(optimizer_.parameters());
    double total = 0;
    for (double s : squares) total += s;
    const double norm = std::sqrt(total);
    const double rate = scheduled_rate(c_.lr_scheduler_type, c_.learning_rate, step, c_.warmup_steps, result_.total_steps);
    progress_.step++;
    progress_.tokens += sums.tokens;
    progress_.largest_micro_batch = std::max(progress_.largest_micro_batch, sums.largest_micro_batch);
    const bool finite = std::isfinite(sums.loss) && std::isfinite(norm);
    if (!finite) {
      if (!skip_bad_step(rows, sums.loss, norm)) return false;
    } else {
      progress_.bad_in_a_row = 0;
      if (!apply(squares, norm, rate)) return false;
    }
    const double seconds = monotonic_seconds() - begin;
    const bool last = progress_.step == result_.total_steps;
    const bool evaluates = job_.eval_method && (last || progress_.step % eval_every_ == 0);
    Json line = report(sums, norm, rate, seconds);
    if (evaluates) line.update(evaluate());
    // One line a step, written before any checkpoint of it: a resumed run never misses or repeats one.
    if (evaluates || last || progress_.step % std::max<int64_t>(1, c_.logging_steps) == 0) {
      result_.last_metrics = line;
      metrics_->write(line);
    }
    if (evaluates) keep_best(line.at(metric_name()));
    // In the middle of a bad streak the weights may be broken already: the last good checkpoint stays the newest.
    if (c_.save_steps > 0 && progress_.bad_in_a_row == 0 && (last || progress_.step % c_.save_steps == 0)) save();
    return true;
  }

  bool apply(const std::vector<double>& squares, double norm, double rate) {
    if (!guarded(guard_.after_backward(squares))) return false;
    // torch.nn.utils.clip_grad_norm_: the coefficient is max_norm / (norm + 1e-6), at most 1.
    const double scale = c_.max_grad_norm > 0 ? std::min(1.0, c_.max_grad_norm / (norm + 1e-6)) : 1.0;
    const bool watch = guard_.watching_update() && progress_.step > c_.warmup_steps && rate > 0 && norm > 0;  // warm-up rates may round to nothing
    if (watch) guard_.before_update();
    optimizer_.step(rate, scale);
    if (rate > 0) guard_.moved();
    if (job_.adapter) adapters::updated(*job_.adapter);
    return !watch || guarded(guard_.after_update());
  }

  bool skip_bad_step(const std::vector<int64_t>& rows, double loss, double norm) {
    progress_.bad_in_a_row++;
    progress_.bad_steps++;
    const std::filesystem::path saved = save_bad_batch(job_.run, progress_.step, *job_.method, rows);
    log_warning("step {}: loss {}, gradient norm {}: the update is not applied; its rows are in {}", progress_.step, loss, norm, saved.string());
    if (progress_.bad_in_a_row < kBadStepsInARow) return true;
    return guarded(
        fmt::format("{} steps in a row had a non-finite loss or gradient; the rows are in {}", progress_.bad_in_a_row, saved.parent_path().string()));
  }

  // True: go on. A guard that fires stops the run, or with --on_guard warn says so once.
  bool guarded(const std::string& problem) {
    if (problem.empty()) return true;
    if (c_.on_guard == config::OnGuard::warn) {
      log_warning("guard: {}", problem);
      return true;
    }
    result_.exit = Exit::guard;
    result_.message = fmt::format("stopped by a guard at step {}: {}", progress_.step, problem);
    return false;
  }

  Json report(const StepSums& sums, double norm, double rate, double seconds) {
    progress_.seconds += seconds;
    const double left = static_cast<double>(result_.total_steps - progress_.step) * progress_.seconds / static_cast<double>(progress_.step);
    log_progress(fmt::format("loss {:.4f}  {:.0f} tokens/s  {} left", sums.loss, static_cast<double>(sums.tokens) / seconds, duration(left)),
                 progress_.step, result_.total_steps, "steps");
    Json line;
    line["step"] = progress_.step;
    line["epoch"] = static_cast<double>(progress_.step) / static_cast<double>(order_.steps_per_epoch());
    line["loss"] = sums.loss;
    line["learning_rate"] = rate;
    line["grad_norm"] = norm;
    line["num_tokens"] = progress_.tokens;
    for (const auto& [name, value] : sums.metrics) line[name] = value;
    line["step_time"] = seconds;
    line["tokens_per_second"] = static_cast<double>(sums.tokens) / seconds;
    if (progress_.bad_steps > 0) line["nonfinite_steps"] = progress_.bad_steps;
    add_memory(line, memory());
    return line;
  }

  MemoryParts memory() const {
    MemoryParts parts;
    for (const ops::Parameter* p : job_.model->parameters()) parts.weights += static_cast<double>(ops::value_bytes(*p)) / kMiB;
    if (job_.adapter)
      for (const ops::Parameter* p : job_.adapter->parameters) parts.adapters += static_cast<double>(ops::value_bytes(*p)) / kMiB;
    for (const ops::Parameter* p : optimizer_.parameters())
      parts.optimizer += static_cast<double>(p->grad.nbytes()) / kMiB;  // gradients stand with the optimizer's state
    parts.optimizer += static_cast<double>(optimizer_.resident_state_bytes()) / kMiB;
    parts.activations = static_cast<double>(job_.activation_bytes_per_token) * static_cast<double>(progress_.largest_micro_batch) / kMiB;
    return parts;
  }

  static std::string duration(double seconds) {
    const auto s = static_cast<int64_t>(seconds + 0.5);
    return s >= 3600 ? fmt::format("{}h{:02}m", s / 3600, s / 60 % 60) : s >= 60 ? fmt::format("{}m{:02}s", s / 60, s % 60) : fmt::format("{}s", s);
  }

  Json evaluate() {
    const double begin = monotonic_seconds();
    Json line = evaluation(*job_.model, adapter_set(), *job_.eval_method, job_.micro_batch_tokens);
    line["eval_runtime"] = monotonic_seconds() - begin;
    result_.last_eval = line;
    result_.last_eval["step"] = progress_.step;
    log_info("step {}: eval_loss {:.4f}, eval_mean_token_accuracy {:.4f}", progress_.step, line.at("eval_loss").get<double>(),
             line.at("eval_mean_token_accuracy").get<double>());
    return line;
  }

  void keep_best(double value) {
    const bool lower = c_.metric_for_best_model == config::BestMetric::eval_loss;
    if (std::isfinite(value) && (std::isnan(progress_.best) || (lower ? value < progress_.best : value > progress_.best))) {
      progress_.best = value;
      const int64_t before = std::exchange(progress_.best_step, progress_.step);
      if (!keeps_best()) return;
      save();
      const bool periodic = c_.save_steps > 0 && before % c_.save_steps == 0;
      if (!c_.save_total_limit && before > 0 && !periodic) remove_checkpoint(job_.run, before, progress_.step);
    }
  }

  void save() {
    if (last_saved_ == progress_.step) return;
    const data::Position position = order_.position();
    Json best = nullptr;
    if (!std::isnan(progress_.best)) best = progress_.best;
    CheckpointState state{progress_.step, {}};
    state.data["identity"] = job_.identity;
    state.data["progress"] = {{"tokens", progress_.tokens},
                              {"bad_in_a_row", progress_.bad_in_a_row},
                              {"bad_steps", progress_.bad_steps},
                              {"largest_micro_batch", progress_.largest_micro_batch},
                              {"best", best},
                              {"best_step", progress_.best_step},
                              {"seconds", progress_.seconds},
                              {"epoch", position.epoch},
                              {"index", position.index}};
    state.data["last_metrics"] = result_.last_metrics;
    state.data["last_eval"] = result_.last_eval;
    save_checkpoint(job_.run, state, optimizer_);
    last_saved_ = progress_.step;
    std::optional<int64_t> keep;
    if (progress_.best_step >= 0) keep = progress_.best_step;
    if (c_.save_total_limit) rotate_checkpoints(job_.run, *c_.save_total_limit, keep);
  }

  bool should_stop() {
    if (progress_.step >= result_.total_steps) return false;
    if (interrupt_signal() != 0) {
      save();
      result_.exit = interrupt_exit();
      result_.message = fmt::format("interrupted after step {}; the checkpoint is written, go on with --resume", progress_.step);
      return true;
    }
    if (c_.max_time && monotonic_seconds() - started_ >= *c_.max_time) {
      save();
      job_.save_model(job_.run / "model");
      result_.message =
          fmt::format("--max_time reached after step {} of {}; model/ is that step, --resume goes on from it", progress_.step, result_.total_steps);
      return true;
    }
    return false;
  }

  TrainResult finish() {
    result_.steps = progress_.step;
    metrics_->close();
    return result_;
  }

  const TrainJob& job_;
  const config::RunConfig& c_;
  Adamw optimizer_;
  TrainableGuard guard_;
  data::RowOrder order_;
  std::unique_ptr<MetricsWriter> metrics_;
  Progress progress_;
  TrainResult result_;
  int64_t eval_every_ = 1;
  int64_t last_saved_ = -1;
  double started_ = 0;  // when this start began to train
};

}  // namespace

int64_t total_steps(const config::RunConfig& config, int64_t rows) {
  if (config.max_steps > 0) return config.max_steps;
  const int64_t per_epoch = (rows + config.batch_size - 1) / config.batch_size;
  return static_cast<int64_t>(std::ceil(config.num_train_epochs * static_cast<double>(per_epoch)));
}

namespace {

// NAME, NAME_low, NAME_high: the ratio sum(values)/sum(counts) and its 95 % interval over rows, by the linearised variance of a ratio
// (Cochran, Sampling Techniques, 1977, section 6.3): rows are the units that were drawn, not tokens.
void add_interval(Json& out, const std::string& name, double ratio, const methods::Method& method, const std::vector<double>& values) {
  out[name] = ratio;
  const auto n = static_cast<double>(values.size());
  double count = 0, squares = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const int64_t row[] = {static_cast<int64_t>(i)};
    const double c = method.counts(row)[0];
    count += c;
    squares += (values[i] - ratio * c) * (values[i] - ratio * c);
  }
  if (values.size() < 2 || !(count > 0)) return;
  const double half = 1.959963984540054 * std::sqrt(n / (n - 1) * squares) / count;
  out[name + "_low"] = ratio - half;
  out[name + "_high"] = ratio + half;
}

}  // namespace

Json evaluation(model::Model& model, ops::AdapterSet* adapters, const methods::Method& method, int64_t micro_batch_tokens) {
  std::vector<int64_t> rows(method.num_rows());
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  const StepSums sums = run_rows(model, method, rows, {micro_batch_tokens, false, false, adapters});
  Json out;
  add_interval(out, "eval_loss", sums.loss, method, sums.row_loss);
  for (size_t i = 0; i < sums.metrics.size(); ++i)
    add_interval(out, "eval_" + sums.metrics[i].first, sums.metrics[i].second, method, sums.row_metrics[i]);
  out["eval_num_tokens"] = sums.tokens;
  return out;
}

TrainResult train(const TrainJob& job) { return Loop(job).run(); }

}  // namespace hone::train
