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
  double seconds = 0;  // of training so far, over all starts
};

std::string identity_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "none" : value.is_object() ? "one" : value.dump();
}

// "NAME: was X, now Y" of every field that differs, those of objects by their own names.
void add_differences(const Json& was, const Json& now, std::string& out) {
  const auto add = [&](const std::string& key, const std::string& before, const std::string& after) {
    out += fmt::format("{}{}: was {}, now {}", out.empty() ? "" : "; ", key, before, after);
  };
  for (const auto& [key, value] : now.items()) {
    if (!was.contains(key))
      add(key, "absent", identity_text(value));
    else if (was.at(key).is_object() && value.is_object())
      add_differences(was.at(key), value, out);
    else if (was.at(key) != value)
      add(key, identity_text(was.at(key)), identity_text(value));
  }
  for (const auto& [key, value] : was.items())
    if (!now.contains(key)) add(key, identity_text(value), "absent");
}

class Loop {
 public:
  explicit Loop(const TrainJob& job)
      : job_(job),
        c_(*job.config),
        optimizer_(trainable(job), {c_.adam_beta1, c_.adam_beta2, c_.adam_epsilon, c_.weight_decay, c_.optim == config::Optimizer::adamw_8bit,
                                    job.spill_optimizer ? job.run : std::filesystem::path{}}),
        guard_(optimizer_.parameters()),
        fall_guard_(c_.max_chosen_drop),
        reference_(job.reference, *job.model, job.adapter, *job.method, job.eval_method, job.micro_batch_tokens),
        kept_(job.run, c_, job.eval_method != nullptr),
        order_(job.method->num_rows(), c_.batch_size, static_cast<uint64_t>(c_.seed), c_.shuffle_dataset) {
    result_.total_steps = total_steps(c_, job.method->num_rows());
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

  std::string metric_name() const { return config::metric_key(c_.metric_for_best_model); }

  // Every row of the steps to come, in the order of its first visit.
  std::vector<int64_t> rows_to_visit() const {
    std::vector<int64_t> rows;
    if (!job_.reference.logprobs) return rows;
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
    if (job_.adapter) adapters::updated(*job_.adapter);
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
    compare_identity(state.data.at("identity"));
    const Json& p = state.data.at("progress");
    progress_ = {state.step, p.at("tokens"), p.at("bad_in_a_row"), p.at("bad_steps"), p.at("largest_micro_batch"), p.at("seconds")};
    kept_.read(p);
    fall_guard_.restore(p.value("fall", std::vector<double>()));
    order_.seek({p.at("epoch"), p.at("index")});
    result_.last_metrics = state.data.at("last_metrics");
    result_.last_eval = state.data.at("last_eval");
    return true;
  }

  void restore_tensors() {
    load_checkpoint(job_.run, progress_.step, optimizer_, /*weights_only=*/false, reference_.tensors());
    reference_.restored();
    if (job_.adapter) adapters::updated(*job_.adapter);
    if (optimizer_.steps() > c_.warmup_steps + 1) guard_.skip();
    remove_torn_checkpoints(job_.run);
    log_info("resuming after step {} of {}", progress_.step, result_.total_steps);
  }

  void compare_identity(const Json& recorded) const {
    std::string differences;
    add_differences(recorded, job_.identity, differences);
    if (!differences.empty())
      fail("--resume: this is not the run in {} ({}); give the same options, or another --output_dir", job_.run.string(), differences);
  }

  // False: the run ends here (guard).
  bool one_step() {
    const double begin = monotonic_seconds();
    const std::vector<int64_t> rows = order_.next();
    const int64_t step = progress_.step;
    const double prepared = reference_.before_step(rows);
    zero_gradients(optimizer_.parameters());
    if (job_.adapter)
      job_.adapter->set.dropout = {job_.adapter->config.lora_dropout, true, static_cast<uint64_t>(c_.seed), static_cast<uint32_t>(step), {}};
    const StepSums sums =
        run_rows(*job_.model, *job_.method, rows,
                 {.micro_batch_tokens = job_.micro_batch_tokens, .training = true, .checkpointing = job_.checkpointing, .adapters = adapter_set()});
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
    reference_.after_step(progress_.step);
    const double seconds = monotonic_seconds() - begin + prepared;
    const bool last = progress_.step == result_.total_steps;
    const bool evaluates = job_.eval_method && (last || progress_.step % eval_every_ == 0);
    Json line = report(sums, norm, rate, seconds);
    if (evaluates) line.update(evaluate());
    // One line a step, written before any checkpoint of it: a resumed run never misses or repeats one.
    unlogged_ = nullptr;
    if (evaluates || last || progress_.step % std::max<int64_t>(1, c_.logging_steps) == 0)
      log_line(line);
    else
      unlogged_ = line;
    if (const char* fall = job_.method->fall_metric(); fall && finite && !guarded(fall_guard_.after_step(line.value(fall, 0.0)))) return fallen();
    if (evaluates) keep_best(line.at(metric_name()));
    // In the middle of a bad streak the weights may be broken already: the last good checkpoint stays the newest.
    if (c_.save_steps > 0 && progress_.bad_in_a_row == 0 && (last || progress_.step % c_.save_steps == 0)) save();
    return true;
  }

  void log_line(const Json& line) {
    result_.last_metrics = line;
    metrics_->write(line);
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
    double left = static_cast<double>(result_.total_steps - progress_.step) * progress_.seconds / static_cast<double>(progress_.step);
    if (c_.max_time) left = std::min(left, std::max(0.0, *c_.max_time - (monotonic_seconds() - started_)));
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
    reference_.before_evaluation();
    Json line = evaluation(*job_.model, adapter_set(), *job_.eval_method, job_.micro_batch_tokens);
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

  void save() {
    if (last_saved_ == progress_.step) return;
    const data::Position position = order_.position();
    CheckpointState state{progress_.step, {}};
    state.data["identity"] = job_.identity;
    state.data["progress"] = {{"tokens", progress_.tokens},       {"bad_in_a_row", progress_.bad_in_a_row},
                              {"bad_steps", progress_.bad_steps}, {"largest_micro_batch", progress_.largest_micro_batch},
                              {"seconds", progress_.seconds},     {"epoch", position.epoch},
                              {"index", position.index}};
    kept_.write(state.data["progress"]);
    if (!fall_guard_.window().empty()) state.data["progress"]["fall"] = fall_guard_.window();
    state.data["last_metrics"] = result_.last_metrics;
    state.data["last_eval"] = result_.last_eval;
    save_checkpoint(job_.run, state, optimizer_, reference_.tensors());
    last_saved_ = progress_.step;
    kept_.saved(progress_.step, fall_guard_.sound());
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
    result_.steps = progress_.step;
    metrics_->close();
    return result_;
  }

  const TrainJob& job_;
  const config::RunConfig& c_;
  Adamw optimizer_;
  TrainableGuard guard_;
  FallGuard fall_guard_;
  Reference reference_;
  KeptCheckpoints kept_;
  data::RowOrder order_;
  std::unique_ptr<MetricsWriter> metrics_;
  Progress progress_;
  TrainResult result_;
  Json unlogged_;  // the line of the last step where --logging_steps passes it over
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

TrainResult train(const TrainJob& job) { return Loop(job).run(); }

}  // namespace hone::train
