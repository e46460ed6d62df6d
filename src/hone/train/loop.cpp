#include "hone/train/loop.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <utility>

#include "hone/base/files.h"
#include "hone/base/log.h"
#include "hone/base/process.h"
#include "hone/base/signals.h"
#include "hone/data/shuffle.h"
#include "hone/train/checkpoint.h"
#include "hone/train/evaluation.h"
#include "hone/train/guards.h"
#include "hone/train/kept_checkpoints.h"
#include "hone/train/progress.h"
#include "hone/train/run_guards.h"
#include "hone/train/step.h"
#include "hone/train/step_report.h"

namespace hone::train {
namespace {

constexpr int64_t kBadStepsInARow = 3;  // non-finite steps in a row that stop a run

class Loop {
 public:
  explicit Loop(const TrainJob& job)
      : job_(job),
        c_(*job.config),
        passes_(job.passes()),
        rollouts_(job.rollouts),
        optimizer_(trained_parameters(passes_, c_.loraplus_lr_ratio),
                   {.beta1 = c_.adam_beta1,
                    .beta2 = c_.adam_beta2,
                    .epsilon = c_.adam_epsilon,
                    .weight_decay = c_.weight_decay,
                    .eight_bit = c_.optim == config::Optimizer::adamw_8bit,
                    .spill_folder = job.spill_optimizer ? job.run : std::filesystem::path{},
                    .late_parameters = trained_parameters({passes_.data(), 1}, c_.loraplus_lr_ratio).size(),
                    .late_steps = warming_steps()}),
        guards_(optimizer_.parameters(), job),
        reference_(job.reference, *job.model, job.adapter, *job.method, job.eval_method, job.micro_batch_tokens),
        kept_(job.run, c_, evaluates()),
        order_(job.rows(), c_.batch_size, static_cast<uint64_t>(c_.seed), c_.shuffle_dataset) {
    result_.total_steps = job.steps();
    eval_every_ = c_.eval_steps.value_or(order_.steps_per_epoch());
  }

  TrainResult run() {
    kept_.check_disk(result_.total_steps, checkpoint_bytes(optimizer_, reference_.tensors()), job_.model_bytes);
    const bool resumed = c_.resume && read_progress();
    if (job_.started) job_.started(resumed);
    started_ = monotonic_seconds();
    metrics_ = std::make_unique<MetricsWriter>(job_.run / "metrics.jsonl", progress_.step);
    // From the freshly loaded policy: before a checkpoint's tensors take its place.
    if (!reference_.prepare(rows_to_visit())) return interrupted_before_the_first_step();
    if (resumed) restore_tensors();
    if (c_.learning_rate == 0 && !guarded("--learning_rate 0 trains nothing")) return finish();
    while (progress_.step < result_.total_steps) {
      if (!one_step()) return finish();
      if (should_stop()) return finish();
    }
    if (c_.load_best_model_at_end) take_best();
    job_.save_model(job_.run / "model");
    return finish();
  }

 private:
  bool evaluates() const { return job_.eval_method || job_.evaluate; }
  // PPO's --critic_warmup: updates in which the policy stands still and has no gradient.
  int64_t warming_steps() const { return c_.critic_warmup * c_.num_ppo_epochs * c_.num_mini_batches; }
  std::string metric_name() const { return config::metric_key(c_.metric_for_best_model); }

  // Every row of the steps to come, in the order of its first visit.
  std::vector<int64_t> rows_to_visit() const {
    std::vector<int64_t> rows;
    if (!job_.reference.logprobs || rollouts_) return rows;
    std::set<int64_t> seen;
    data::RowOrder order = order_;
    for (int64_t step = progress_.step; step < result_.total_steps && static_cast<int64_t>(seen.size()) < job_.method->num_rows(); ++step)
      for (const int64_t row : order.next())
        if (seen.insert(row).second) rows.push_back(row);
    return rows;
  }

  TrainResult interrupted_before_the_first_step() {
    result_.exit = interrupt_exit();
    result_.message = "interrupted while the reference was computed; what there is of it is kept, go on with --resume";
    return finish();
  }

  void take_best() {
    const int64_t best = kept_.best_step();
    if (best < 0 || best == progress_.step) return;
    const std::string problem = verify_checkpoint(checkpoint_path(job_.run, best));
    if (!problem.empty()) {
      log_warning("the best checkpoint cannot be used, model/ is the last step: {}", problem);
      return;
    }
    load_checkpoint(job_.run, best, optimizer_, /*weights_only=*/true);
    values_changed(passes_);
    const Json state = read_state(job_.run, best).data;  // of what is saved now
    result_.last_eval = state.at("last_eval");
    result_.last_kls = state.at("progress").value("kl", std::vector<double>());
    log_info("the model is the best by {}: step {}", metric_name(), best);
  }

  // Where the newest checkpoint stands; its tensors are left for restore_tensors. False: there is none.
  bool read_progress() {
    const std::optional<int64_t> step = newest_checkpoint(job_.run);
    if (!step) {
      log_info("--resume: no complete checkpoint in {}: starting at step 0", job_.run.string());
      return false;
    }
    const CheckpointState state = read_state(job_.run, *step);
    compare_identity(state.data.at("identity"), job_.identity, job_.run);
    const Json& p = state.data.at("progress");
    progress_ = Progress::from(p, state.step);
    kept_.read(p);
    guards_.restore(p);
    order_.seek({p.at("epoch"), p.at("index")});
    if (rollouts_) rollouts_->restore(p.at("rollouts"), progress_.step);
    result_.last_metrics = state.data.at("last_metrics");
    result_.last_eval = state.data.at("last_eval");
    return true;
  }

  void restore_tensors() {
    load_checkpoint(job_.run, progress_.step, optimizer_, /*weights_only=*/false, reference_.tensors());
    reference_.restored();
    values_changed(passes_);
    if (optimizer_.steps() > warming_steps() + c_.warmup_steps + 1) guards_.skip_first_steps();
    remove_torn_checkpoints(job_.run);
    log_info("resuming after step {} of {}", progress_.step, result_.total_steps);
  }

  // False: the run ends here (guard, or a signal while a rollout was collected).
  bool one_step() {
    const double begin = monotonic_seconds();
    if (rollouts_ && !collect()) return false;
    const int64_t step = progress_.step;
    const std::vector<int64_t> rows = rollouts_ ? rollouts_->rows(step) : order_.next();
    const double prepared = rollouts_ ? 0.0 : reference_.before_step(rows);
    const StepOutcome out = backward_step(passes_, rows, optimizer_.parameters(),
                                          {.micro_batch_tokens = job_.micro_batch_tokens,
                                           .checkpointing = job_.checkpointing,
                                           .checkpoint_above = job_.checkpoint_above,
                                           .seed = static_cast<uint64_t>(c_.seed),
                                           .step = step,
                                           .skip_without_gradient = rollouts_ && c_.skip_zero_advantage});
    const double rate = scheduled_rate(c_.lr_scheduler_type, c_.learning_rate, step, c_.warmup_steps, result_.total_steps);
    progress_.step++;
    progress_.tokens += out.sums.tokens;
    progress_.largest_micro_batch = std::max(progress_.largest_micro_batch, out.sums.largest_micro_batch);
    if (!out.finite) {
      if (!skip_bad_step(rows, out.sums.loss, out.norm)) return false;
    } else {
      progress_.bad_in_a_row = 0;
      if (!apply(out, rate)) return false;
    }
    reference_.after_step(progress_.step);
    return told(out, rate, monotonic_seconds() - begin + prepared);
  }

  // Samples and judges where the step begins a rollout. False: a signal came, and the run ends with a checkpoint; or a guard stops it.
  bool collect() {
    const int64_t step = progress_.step;
    const bool whole = rollouts_->before_step(step, *job_.model, passes_.front().adapter_set(), [&](int64_t groups) {
      const double begin = monotonic_seconds();
      reference_.score_rollout(job_.on_policy->reference(), groups);
      job_.on_policy->referenced();
      weighing_ += monotonic_seconds() - begin;
    });
    if (!whole) {
      end_interrupted();
      return false;
    }
    job_.on_policy->update(step % rollouts_->plan().steps);
    if (!rollouts_->begins(step) || guarded(guards_.after_rollout(*rollouts_))) return true;
    return guards_.sound() ? false : fallen();
  }

  // The line of the step, evaluation, checkpoints. False: a guard ends the run.
  bool told(const StepOutcome& out, double rate, double seconds) {
    const bool last = progress_.step == result_.total_steps;
    const bool now = evaluates() && (last || progress_.step % eval_every_ == 0);
    Json line = report(out, rate, seconds);
    if (now) line.update(evaluate());
    // One line a step, written before any checkpoint of it: a resumed run never misses or repeats one.
    unlogged_ = nullptr;
    if (now || last || progress_.step % std::max<int64_t>(1, c_.logging_steps) == 0)
      log_line(line);
    else
      unlogged_ = line;
    if (out.finite && !guarded(guards_.after_step(line, rollouts_ && rollouts_->begins(progress_.step - 1)))) return fallen();
    if (now && rollouts_ && !guarded(guards_.after_evaluation(progress_.step, held_out_.scores))) return parted();
    if (now) keep_best(line.at(metric_name()));
    // In the middle of a bad streak the weights may be broken already: the last good checkpoint stays the newest.
    if (c_.save_steps > 0 && progress_.bad_in_a_row == 0 && (last || progress_.step % c_.save_steps == 0)) save();
    return true;
  }

  void log_line(const Json& line) {
    result_.last_metrics = line;
    metrics_->write(line);
    // A step of an on-policy run takes seconds: what it says of itself stays on the screen.
    if (const std::string words = rollout_words(line); !words.empty()) log_info("step {}: {}", progress_.step, words);
  }

  bool apply(const StepOutcome& out, double rate) {
    const bool warm = progress_.step <= warming_steps();
    if (!warm && !guarded(guards_.after_backward(out.squares))) return false;
    const bool watch =
        !warm && guards_.watching_update() && progress_.step > c_.warmup_steps && rate > 0 && out.norm > 0;  // warm-up rates may round to nothing
    if (watch) guards_.before_update();
    update(passes_, optimizer_, rate, out.norm, c_.max_grad_norm);
    if (rate > 0) guards_.moved();
    return !watch || guarded(guards_.after_update());
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
      if (std::exchange(warned_, problem) != problem) log_warning("guard: {}", problem);
      return true;
    }
    result_.exit = Exit::guard;
    result_.message = fmt::format("stopped by a guard at step {}: {}", progress_.step, problem);
    return false;
  }

  Json report(const StepOutcome& out, double rate, double seconds) {
    progress_.seconds += seconds;
    Json line;
    line["step"] = progress_.step;
    line["epoch"] = rollouts_ ? rollouts_->epoch() : static_cast<double>(progress_.step) / static_cast<double>(order_.steps_per_epoch());
    line["loss"] = out.sums.loss;
    line["learning_rate"] = rate;
    line["grad_norm"] = out.norm;
    line["num_tokens"] = progress_.tokens;
    if (rollouts_) line.update(rollouts_->metrics());
    if (rollouts_) line.update(guards_.rollout_figures());
    for (const auto& [name, value] : out.sums.metrics) line[name] = value;
    line["step_time"] = seconds;
    line["tokens_per_second"] = static_cast<double>(out.sums.tokens) / seconds;
    if (rollouts_) {
      RolloutTimes times = rollouts_->take_times();
      times.scoring += std::exchange(weighing_, 0.0);
      add_times(line, times, seconds - times.sampling - times.scoring, out.sums.tokens);
    }
    if (progress_.bad_steps > 0) line["nonfinite_steps"] = progress_.bad_steps;
    add_memory(line, memory_parts(passes_, optimizer_,
                                  static_cast<double>(job_.activation_bytes_per_token) * static_cast<double>(progress_.largest_micro_batch)));
    double left = static_cast<double>(result_.total_steps - progress_.step) * progress_.seconds / static_cast<double>(progress_.step);
    if (c_.max_time) left = std::min(left, std::max(0.0, *c_.max_time - (monotonic_seconds() - started_)));
    log_progress(fmt::format("loss {:.4f}  {:.0f} tokens/s  {} left", out.sums.loss, static_cast<double>(out.sums.tokens) / seconds, duration(left)),
                 progress_.step, result_.total_steps, "steps");
    return line;
  }

  Json evaluate() {
    const double begin = monotonic_seconds();
    if (!rollouts_) reference_.before_evaluation();
    held_out_ = job_.evaluate ? job_.evaluate()
                              : HeldOut{evaluation(*job_.model, passes_.front().adapter_set(), *job_.eval_method, job_.micro_batch_tokens), {}};
    Json line = held_out_.figures;
    line["eval_runtime"] = monotonic_seconds() - begin;
    result_.last_eval = line;
    result_.last_eval["step"] = progress_.step;
    log_info("step {}: {}", progress_.step, headline(line));
    return line;
  }

  void keep_best(double value) {
    if (!kept_.is_best(value, progress_.step) || !kept_.keeps_best()) return;
    save();
    kept_.best_saved();
  }

  // The guard has stopped a run that fell: what was saved on the way down goes, so that the newest checkpoint is the last good one.
  bool fallen() {
    const int64_t sound = kept_.back_to_sound();
    if (sound >= 0) result_.message += fmt::format("; the checkpoint of step {}, from before it, is kept", sound);
    return false;
  }

  // Train reward and held-out score have parted: the newest checkpoint that is left is the one where the score was best.
  bool parted() {
    const int64_t kept = kept_.back_to(guards_.best_evaluation());
    if (kept >= 0) result_.message += fmt::format("; the checkpoint of step {}, from before it, is kept", kept);
    return false;
  }

  void save() {
    if (last_saved_ == progress_.step) return;
    const data::Position position = order_.position();
    CheckpointState state{progress_.step, {}};
    state.data["identity"] = job_.identity;
    Json progress = progress_.json();
    progress["epoch"] = position.epoch;
    progress["index"] = position.index;
    kept_.write(progress);
    guards_.write(progress);
    if (rollouts_) progress["rollouts"] = rollouts_->state(progress_.step);
    state.data["progress"] = std::move(progress);
    state.data["last_metrics"] = result_.last_metrics;
    state.data["last_eval"] = result_.last_eval;
    save_checkpoint(job_.run, state, optimizer_, reference_.tensors());
    last_saved_ = progress_.step;
    kept_.saved(progress_.step, guards_.sound());
    if (rollouts_) rollouts_->saved(progress_.step);
  }

  void end_interrupted() {
    save();
    result_.exit = interrupt_exit();
    result_.message = fmt::format("interrupted after step {}; the checkpoint is written, go on with --resume", progress_.step);
  }

  bool should_stop() {
    if (progress_.step >= result_.total_steps) return false;
    if (interrupt_signal() != 0) {
      end_interrupted();
      return true;
    }
    if (c_.max_time && monotonic_seconds() - started_ >= *c_.max_time) {
      if (!unlogged_.is_null()) log_line(unlogged_);  // the run's last step, whatever --logging_steps says
      save();
      job_.save_model(job_.run / "model");
      result_.message =
          fmt::format("--max_time reached after step {} of {}; model/ is that step, --resume goes on from it", progress_.step, result_.total_steps);
      return true;
    }
    return false;
  }

  TrainResult finish() {
    if (result_.last_kls.empty()) result_.last_kls = guards_.last_kls();
    result_.steps = progress_.step;
    metrics_->close();
    if (rollouts_ && result_.exit == Exit::ok && progress_.step == result_.total_steps) rollouts_->finished();
    return result_;
  }

  const TrainJob& job_;
  const config::RunConfig& c_;
  const std::vector<Pass> passes_;
  RolloutSource* const rollouts_;  // null: the rows stand in files
  Adamw optimizer_;
  RunGuards guards_;
  Reference reference_;
  KeptCheckpoints kept_;
  data::RowOrder order_;
  std::unique_ptr<MetricsWriter> metrics_;
  double weighing_ = 0;  // seconds of the reference and the value model on the rollout at hand: scoring, for those who read times
  Progress progress_;
  TrainResult result_;
  HeldOut held_out_;  // of the last evaluation
  Json unlogged_;     // the line of the last step where --logging_steps passes it over
  std::string warned_;
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

int64_t TrainJob::rows() const { return rollouts ? rollouts->num_prompts() : method->num_rows(); }

int64_t TrainJob::steps() const { return rollouts ? rollout_steps(*config, rows(), rollouts->plan()) : total_steps(*config, rows()); }

std::vector<Pass> TrainJob::passes() const {
  std::vector<Pass> all{{model, adapter, method}};
  all.insert(all.end(), more_passes.begin(), more_passes.end());
  return all;
}

TrainResult train(const TrainJob& job) { return Loop(job).run(); }

}  // namespace hone::train
