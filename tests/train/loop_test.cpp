// The loop's guards, each with its fault injected; learning; best checkpoint; resume through the library.
#include <gtest/gtest.h>

#include <limits>

#include "hone/base/log.h"
#include "hone/train/checkpoint.h"
#include "hone/train/guards.h"
#include "support/run_job.h"

namespace hone {
namespace {

// SFT whose loss weights are poisoned from a given call on.
class PoisonedSft : public methods::Sft {
 public:
  PoisonedSft(methods::Sft sft, int first_bad, int last_bad) : methods::Sft(std::move(sft)), first_bad_(first_bad), last_bad_(last_bad) {}
  std::optional<at::Tensor> known_cotangent(const ops::BatchTensors& batch, std::span<const int64_t> rows,
                                            const methods::StepInputs& step) const override {
    auto cotangent = methods::Sft::known_cotangent(batch, rows, step);
    ++calls_;
    if (bad()) cotangent->fill_(std::numeric_limits<float>::quiet_NaN());
    return cotangent;
  }
  methods::MethodOutput evaluate(const methods::Forward& forward, const methods::StepInputs& step) const override {
    methods::MethodOutput out = methods::Sft::evaluate(forward, step);
    // the loss is poisoned without a graph: the backward would compare cotangents
    if (bad()) out.losses[0].values = at::full_like(out.losses[0].values.detach(), std::numeric_limits<double>::infinity());
    return out;
  }

 private:
  bool bad() const { return calls_ >= first_bad_ && calls_ <= last_bad_; }
  int first_bad_, last_bad_;
  mutable int calls_ = 0;
};

TEST(Loop, LossFallsOnRowsSeenAgain) {
  const test::RowSet rows = test::trl_rows();
  const methods::Sft method = rows.method();
  test::TemporaryRun run;
  config::RunConfig c = test::small_config(60);
  c.lr_scheduler_type = config::Schedule::constant;
  const test::JobOutcome out = test::run_job("models/chat", method, c, run.path);
  ASSERT_EQ(out.result.exit, Exit::ok) << out.result.message;
  // From ln(290) = 5.7 for a uniform guess to well below: a run that does not learn stays above 5.
  EXPECT_LT(out.metrics.back().at("loss").get<double>(), 3.0);
}

TEST(Loop, OneNonFiniteStepIsSkippedAndItsRowsAreSaved) {
  const test::RowSet rows = test::trl_rows();
  const PoisonedSft method(rows.method(), 2, 2);
  test::TemporaryRun run;
  const test::JobOutcome out = test::run_job("models/chat", method, test::small_config(4), run.path);
  EXPECT_EQ(out.result.exit, Exit::ok) << out.result.message;
  EXPECT_TRUE(std::filesystem::exists(run.path / "nonfinite" / "step-2.jsonl"));
  EXPECT_FALSE(std::filesystem::exists(run.path / "nonfinite" / "step-3.jsonl"));
  EXPECT_EQ(out.metrics.back().at("nonfinite_steps"), 1);
  for (const float w : out.weights) ASSERT_TRUE(std::isfinite(w));
}

TEST(Loop, ThreeNonFiniteStepsInARowStopTheRun) {
  const test::RowSet rows = test::trl_rows();
  const PoisonedSft method(rows.method(), 3, 100);
  test::TemporaryRun run;
  const test::JobOutcome out = test::run_job("models/chat", method, test::small_config(10), run.path);
  EXPECT_EQ(out.result.exit, Exit::guard);
  EXPECT_EQ(out.result.steps, 5);
  EXPECT_NE(out.result.message.find("3 steps in a row"), std::string::npos) << out.result.message;
  for (const float w : out.weights) ASSERT_TRUE(std::isfinite(w));
  test::TemporaryRun warned;
  config::RunConfig warn = test::small_config(10);
  warn.on_guard = config::OnGuard::warn;
  const PoisonedSft again(rows.method(), 3, 100);
  EXPECT_EQ(test::run_job("models/chat", again, warn, warned.path).result.exit, Exit::ok);
}

// A tensor that gets no gradient: the embedding of a model whose lookups are thrown away.
TEST(TrainableGuard, NamesATensorWithoutGradientAtTheSecondSignal) {
  const auto model = test::load_golden("models/untied_mha_v4", ops::Backend::kernels);
  std::vector<ops::Parameter*> parameters = model->parameters();
  for (ops::Parameter* p : parameters) {
    ops::enable_gradient(*p);
    p->grad.fill_(1e-3);
  }
  ops::Parameter* qkv = parameters[2];
  ASSERT_EQ(qkv->parts.size(), 3u);
  train::TrainableGuard guard(parameters);
  EXPECT_EQ(guard.after_backward(std::vector<double>(parameters.size(), 0.0)), "");  // no signal at all does not count
  // one part of a fused tensor: k_proj stays at 0
  qkv->grad.zero_();
  std::vector<float> ones(qkv->parts[0].rows * qkv->cols, 1.0f);
  ops::Parameter copy = *qkv;
  copy.value = qkv->grad;  // set_part writes into `value`, here the gradient's memory
  ops::set_part(copy, qkv->parts[0], ones.data());
  ops::set_part(copy, qkv->parts[2], ones.data());
  const std::vector<double> squares(parameters.size(), 1.0);
  EXPECT_EQ(guard.after_backward(squares), "");
  EXPECT_EQ(guard.after_backward(squares), "");  // nothing moved since (warm-up begins at rate 0): it says nothing new
  guard.moved();
  const std::string problem = guard.after_backward(squares);
  EXPECT_NE(problem.find("self_attn.k_proj.weight"), std::string::npos) << problem;
  EXPECT_EQ(problem.find("q_proj"), std::string::npos) << problem;
}

TEST(TrainableGuard, NamesATensorThatTheFirstUpdateDidNotWrite) {
  const auto model = test::load_golden("models/tied_gqa2", ops::Backend::kernels);
  std::vector<ops::Parameter*> parameters = model->parameters();
  for (ops::Parameter* p : parameters) {
    ops::enable_gradient(*p);
    p->grad.fill_(1e-3);
  }
  train::TrainableGuard guard(parameters);
  guard.after_backward(std::vector<double>(parameters.size(), 1.0));
  guard.before_update();
  for (size_t i = 0; i + 1 < parameters.size(); ++i) parameters[i]->value.add_(0.5);  // the last one, the final norm, is forgotten
  const std::string problem = guard.after_update();
  EXPECT_NE(problem.find("model.norm.weight"), std::string::npos) << problem;
  EXPECT_EQ(problem.find("q_proj"), std::string::npos) << problem;
}

// A gets its first gradient at the second step, because B is 0 before: what begins without one is looked at once more.
TEST(TrainableGuard, NamesATensorThatGotItsGradientLaterAndWasNotWritten) {
  const auto model = test::load_golden("models/tied_gqa2", ops::Backend::kernels);
  std::vector<ops::Parameter*> parameters = model->parameters();
  for (ops::Parameter* p : parameters) {
    ops::enable_gradient(*p);
    p->grad.fill_(1e-3);
  }
  std::vector<double> squares(parameters.size(), 1.0);
  for (const bool forgotten : {true, false}) {
    train::TrainableGuard guard(parameters);
    squares.back() = 0;  // the final norm
    EXPECT_EQ(guard.after_backward(squares), "");
    EXPECT_TRUE(guard.watching_update());
    guard.before_update();
    for (size_t i = 0; i + 1 < parameters.size(); ++i) parameters[i]->value.add_(0.5);
    EXPECT_EQ(guard.after_update(), "");
    guard.moved();
    squares.back() = 1;
    EXPECT_EQ(guard.after_backward(squares), "");
    EXPECT_TRUE(guard.watching_update());
    guard.before_update();
    if (!forgotten) parameters.back()->value.add_(0.5);
    const std::string problem = guard.after_update();
    EXPECT_EQ(problem.find("the first two updates did not change model.norm.weight") != std::string::npos, forgotten) << problem;
    EXPECT_FALSE(guard.watching_update());
  }
}

TEST(Loop, MaxTimeBoundsTheTimeLeftAndItsLastStepIsLogged) {
  const test::RowSet rows = test::trl_rows();
  const methods::Sft method = rows.method();
  test::TemporaryRun run;
  config::RunConfig c = test::small_config(1000000);
  c.logging_steps = 1000000;
  c.max_time = 0.3;
  std::vector<std::string> progress;
  const LogSink before = set_log_sink([&](const LogEvent& event) {
    if (event.kind == LogKind::progress) progress.push_back(event.text);
  });
  const test::JobOutcome out = test::run_job("models/chat", method, c, run.path);
  set_log_sink(before);
  ASSERT_EQ(out.result.exit, Exit::ok) << out.result.message;
  ASSERT_FALSE(progress.empty());
  for (const std::string& line : progress) EXPECT_TRUE(line.ends_with("  0s left")) << line;  // at most 0.3 s, rounded
  ASSERT_EQ(out.metrics.size(), 1u);
  EXPECT_EQ(out.metrics[0].at("step").get<int64_t>(), out.result.steps);
  EXPECT_EQ(out.result.last_metrics, out.metrics[0]);
}

TEST(Loop, AnAdapterWhoseAIsNeverWrittenStopsTheRun) {
  const test::RowSet rows = test::trl_rows();
  const methods::Sft method = rows.method();
  adapters::LoraConfig lora;
  lora.r = 4;
  for (const double rate : {1e-30, 0.0}) {
    test::TemporaryRun run;
    config::RunConfig c = test::small_config(5);
    c.learning_rate = rate;
    const test::JobOutcome out = test::run_job("models/chat", method, c, run.path, {.lora = lora});
    EXPECT_EQ(out.result.exit, Exit::guard) << rate;
    EXPECT_NE(out.result.message.find(rate == 0 ? "--learning_rate 0 trains nothing" : "lora_A.weight"), std::string::npos) << out.result.message;
  }
}

TEST(Loop, TheBestCheckpointIsKeptAndLoaded) {
  const test::RowSet rows = test::trl_rows();
  const methods::Sft method = rows.method();
  // held-out rows that training makes worse: the same rows with other targets trained on would do, here the first rows reversed
  test::RowSet held_out = rows;
  for (auto& ids : held_out.ids) std::reverse(ids.begin(), ids.end());
  const methods::Sft eval = held_out.method();
  test::TemporaryRun run;
  config::RunConfig c = test::small_config(12);
  c.learning_rate = 2e-2;
  c.eval_steps = 1;
  c.save_steps = 5;
  c.save_total_limit = 1;
  c.load_best_model_at_end = true;
  const test::JobOutcome out = test::run_job("models/chat", method, c, run.path, {.eval = &eval});
  ASSERT_EQ(out.result.exit, Exit::ok) << out.result.message;
  double best = INFINITY;
  int64_t best_step = 0;
  for (const auto& line : out.metrics)
    if (line.contains("eval_loss") && line.at("eval_loss").get<double>() < best) best = line.at("eval_loss"), best_step = line.at("step");
  const std::vector<int64_t> steps = train::list_checkpoints(run.path);
  EXPECT_NE(std::find(steps.begin(), steps.end(), best_step), steps.end());
  EXPECT_LE(steps.size(), 2u);
  const auto model = test::load_golden("models/chat", ops::Backend::kernels);
  for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
  train::Adamw optimizer(model->parameters(), {});
  train::load_checkpoint(run.path, best_step, optimizer, true);
  EXPECT_EQ(test::all_values(*model), out.weights);
}

TEST(Checkpoint, OneFlippedBitAnywhereIsFound) {
  const auto model = test::load_golden("models/tied_gqa2", ops::Backend::kernels);
  for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
  train::Adamw optimizer(model->parameters(), {});
  test::TemporaryRun run;
  train::save_checkpoint(run.path, {7, {{"identity", "x"}}}, optimizer);
  EXPECT_EQ(train::newest_checkpoint(run.path), 7);
  for (const char* name : {"tensors.safetensors", "state.json"}) {
    const auto path = train::checkpoint_path(run.path, 7) / name;
    std::string bytes = read_text(path);
    for (const size_t at : {size_t{0}, bytes.size() / 2, bytes.size() - 1}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      write_atomic(path, damaged);
      EXPECT_NE(train::verify_checkpoint(train::checkpoint_path(run.path, 7)), "") << name << " " << at;
    }
    write_atomic(path, bytes.substr(0, bytes.size() - 1));
    EXPECT_NE(train::verify_checkpoint(train::checkpoint_path(run.path, 7)), "");
    write_atomic(path, bytes);
    EXPECT_EQ(train::verify_checkpoint(train::checkpoint_path(run.path, 7)), "");
  }
  std::filesystem::remove(train::checkpoint_path(run.path, 7) / "COMPLETE");
  EXPECT_EQ(train::newest_checkpoint(run.path), std::nullopt);
}

TEST(Metrics, ResumeKeepsEachStepOnceAndDropsATornLine) {
  test::TemporaryRun run;
  const auto path = run.path / "metrics.jsonl";
  write_atomic(path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st");
  train::MetricsWriter writer(path, 2);
  writer.write({{"step", 3}, {"again", true}});
  writer.close();
  EXPECT_EQ(read_text(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"again\":true}\n");
}

TEST(Schedule, RatesOfTransformersSchedulers) {
  using config::Schedule;
  // transformers.get_scheduler with 2 warm-up steps of 10, rate 1
  EXPECT_DOUBLE_EQ(train::scheduled_rate(Schedule::linear, 1.0, 0, 2, 10), 0.0);
  EXPECT_DOUBLE_EQ(train::scheduled_rate(Schedule::linear, 1.0, 1, 2, 10), 0.5);
  EXPECT_DOUBLE_EQ(train::scheduled_rate(Schedule::linear, 1.0, 2, 2, 10), 1.0);
  EXPECT_DOUBLE_EQ(train::scheduled_rate(Schedule::linear, 1.0, 6, 2, 10), 0.5);
  EXPECT_DOUBLE_EQ(train::scheduled_rate(Schedule::constant, 1.0, 9, 2, 10), 1.0);
  EXPECT_NEAR(train::scheduled_rate(Schedule::cosine, 1.0, 6, 2, 10), 0.5, 1e-15);
  EXPECT_NEAR(train::scheduled_rate(Schedule::cosine, 1.0, 4, 2, 10), 0.8535533905932737, 1e-15);
}

}  // namespace
}  // namespace hone
