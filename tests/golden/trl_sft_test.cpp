// Five steps of TRL 1.16's SFTTrainer, given the same ids and labels: loss, gradient norm, rate, accuracy, entropy, tokens and weights.
#include <gtest/gtest.h>

#include "support/run_job.h"

namespace hone {
namespace trl_sft_test {

// TRL's own float32 run differs from a float64 one by 5e-7 in the figures and 3e-7 in a weight (make_trl_sft.py): room for another order of
// sums and no more.
constexpr double kFigures = 1e-5;
constexpr double kWeights = 2e-6;

class TrlSft : public testing::TestWithParam<std::string> {};

TEST_P(TrlSft, Trajectory) {
  const auto trajectory = nlohmann::json::parse(std::ifstream(golden::golden_path("trl_sft/trajectory.json")));
  const auto& run = trajectory.at("runs").at(GetParam());
  const auto& wanted = run.at("config");
  config::RunConfig c = test::small_config(5);
  c.shuffle_dataset = false;
  c.learning_rate = wanted.at("learning_rate");
  c.weight_decay = wanted.at("weight_decay");
  c.max_grad_norm = wanted.at("max_grad_norm");
  c.warmup_steps = wanted.at("warmup_steps");
  const std::string schedule = wanted.at("lr_scheduler_type");
  c.lr_scheduler_type = schedule == "linear"   ? config::Schedule::linear
                        : schedule == "cosine" ? config::Schedule::cosine
                                               : config::Schedule::constant;
  test::RowSet rows = test::trl_rows();
  rows.ids.resize(wanted.at("rows"));
  rows.weights.resize(wanted.at("rows"));
  const methods::Sft method = rows.method();
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    test::TemporaryRun folder;
    const test::JobOutcome out = test::run_job("models/chat", method, c, folder.path, {.backend = backend});
    ASSERT_EQ(out.result.exit, Exit::ok) << out.result.message;
    ASSERT_EQ(out.metrics.size(), run.at("steps").size());
    for (size_t i = 0; i < out.metrics.size(); ++i)
      for (const char* key : {"loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy", "num_tokens"}) {
        const double ours = out.metrics[i].at(key), theirs = run.at("steps")[i].at(key);
        EXPECT_NEAR(ours, theirs, kFigures * std::max(1e-3, std::abs(theirs))) << GetParam() << " step " << i + 1 << " " << key;
      }
    const auto weights_file = golden::golden_path("trl_sft/" + GetParam() + ".safetensors");
    if (!std::filesystem::exists(weights_file)) continue;
    const auto weights = golden::read_oracle(weights_file);
    size_t at = 0;
    const auto model = test::load_golden("models/chat", backend);
    for (const ops::Parameter* p : model->parameters())
      for (const ops::Part& part : p->parts) {
        const auto& theirs = weights.at(part.name).values;
        for (size_t i = 0; i < theirs.size(); ++i) ASSERT_NEAR(out.weights[at + i], theirs[i], kWeights) << part.name << " [" << i << "]";
        at += theirs.size();
      }
    EXPECT_EQ(at, out.weights.size());
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, TrlSft, testing::Values("in_order", "one_batch", "cosine"));

}  // namespace trl_sft_test
}  // namespace hone
