// The default model against an independent numpy oracle of its log-probabilities, where both files are at hand.
#include <gtest/gtest.h>

#include <cstdlib>

#include "hone/rollout/sampler.h"
#include "hone/train/scoring.h"
#include "support/golden_model.h"

namespace hone {
namespace smollm2_test {

std::filesystem::path shared_data() {
  const char* given = std::getenv("HONE_SHARED");
  return std::filesystem::path(given ? given : std::string(HONE_SOURCE_DIR) + "/../shared") / "data" / "smollm2_ref" / "logprobs.jsonl";
}

TEST(Smollm2, LogprobsAndGreedyTokensOfTheOracle) {
  const std::filesystem::path model_path = std::filesystem::path(HONE_SOURCE_DIR) / "models" / "SmolLM2-135M-Instruct.gguf";
  if (!std::filesystem::exists(model_path)) GTEST_SKIP() << "the default model is not there (make model)";
  if (!std::filesystem::exists(shared_data())) GTEST_SKIP() << "the oracle is not there (HONE_SHARED names the folder that holds data/smollm2_ref)";
  const auto model = model::load_model(*model::open_model(model_path.string()), ops::Backend::kernels, at::kCPU, 512);
  std::ifstream in(shared_data());
  std::vector<nlohmann::json> rows;
  std::vector<std::vector<int32_t>> ids;
  for (std::string line; std::getline(in, line);) {
    rows.push_back(nlohmann::json::parse(line));
    ids.push_back(rows.back().at("ids").get<std::vector<int32_t>>());
  }
  ASSERT_GT(rows.size(), 10u);
  const auto scored = train::score_rows(*model, ids, 1024);
  int greedy_checked = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto wanted = rows[i].at("token_logprobs").get<std::vector<double>>();
    ASSERT_EQ(scored[i].size(), wanted.size());
    for (size_t t = 0; t < wanted.size(); ++t)
      ASSERT_NEAR(scored[i][t], wanted[t], 1e-3) << "row " << i << " token " << t;  // the oracle's own bound in float32
    if (!rows[i].contains("greedy_ids") || greedy_checked == 3) continue;
    ++greedy_checked;
    rollout::SampleOptions options;
    options.law.temperature = 0;
    const auto greedy = rows[i].at("greedy_ids").get<std::vector<int32_t>>();
    const auto margin = rows[i].at("greedy_margin").get<std::vector<double>>();
    options.max_new_tokens = static_cast<int64_t>(greedy.size());
    const rollout::SampleRequest request{ids[i], 0};
    const rollout::Completion c = rollout::sample(*model, std::span(&request, 1), options)[0][0];
    for (size_t t = 0; t < greedy.size(); ++t) {
      if (margin[t] < 1e-2) break;  // two tokens nearly tie: another order of sums may rightly take the other
      ASSERT_EQ(c.ids[t], greedy[t]) << "row " << i << " token " << t;
    }
  }
}

}  // namespace smollm2_test
}  // namespace hone
