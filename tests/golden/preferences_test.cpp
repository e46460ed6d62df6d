// The preference methods against the loss code of TRL 1.16's trainers in float64: loss, every gradient, every metric (make_preferences.py).
#include <gtest/gtest.h>

#include "hone/methods/dpo.h"
#include "hone/methods/kto.h"
#include "hone/methods/orpo.h"
#include "hone/methods/simpo.h"
#include "hone/train/micro_batch.h"
#include "support/preferences.h"

namespace hone {
namespace preferences_test {

using nlohmann::json;

// The model is float32 (relative 6e-8 an operation): a log-probability of a completion is off by a few 1e-6 of nats and its gradient by as
// much relatively, and the losses here magnify that up to two times.
constexpr double kBound = 1e-5;
// Metrics are means of such values; some nearly cancel, so they are compared on the scale of what is summed.
constexpr double kScale = 0.3;

const json& fixture() {
  static const json all = json::parse(std::ifstream(golden::golden_path("preferences/preferences.json")));
  return all;
}

config::PreferenceOptions options_of(const json& o) {
  config::PreferenceOptions p;
  p.loss_type = o.value("loss_type", std::vector<std::string>{});
  p.loss_weights = o.value("loss_weights", std::vector<double>{});
  p.beta = o.at("beta");
  p.label_smoothing = o.value("label_smoothing", p.label_smoothing);
  const std::vector<std::string> divergences{"reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"};
  const auto found = std::find(divergences.begin(), divergences.end(), o.value("f_divergence_type", divergences[0]));
  p.f_divergence_type = static_cast<config::FDivergence>(found - divergences.begin());
  p.f_alpha_divergence_coef = o.value("f_alpha_divergence_coef", p.f_alpha_divergence_coef);
  if (o.contains("ld_alpha")) p.ld_alpha = o.at("ld_alpha").get<double>();
  p.use_weighting = o.value("use_weighting", p.use_weighting);
  p.discopop_tau = o.value("discopop_tau", p.discopop_tau);
  p.desirable_weight = o.value("desirable_weight", p.desirable_weight);
  p.undesirable_weight = o.value("undesirable_weight", p.undesirable_weight);
  p.cpo_alpha = o.value("cpo_alpha", 0.0);
  p.simpo_gamma = o.value("simpo_gamma", p.simpo_gamma);
  p.alphapo_alpha = o.value("alphapo_alpha", p.alphapo_alpha);
  return p;
}

std::unique_ptr<methods::Method> method_of(const json& c, test::TokenRows& tokens) {
  using Ids = std::vector<int32_t>;
  const config::PreferenceOptions options = options_of(c.at("options"));
  const std::string method = c.at("method");
  if (method == "kto") {
    std::vector<data::UnpairedRow> rows;
    for (const json& r : fixture().at("unpaired"))
      rows.push_back({tokens.add(r.at("prompt").get<Ids>(), r.at("completion").get<Ids>()), r.at("label")});
    return std::make_unique<methods::Kto>(rows, options);
  }
  std::vector<data::PairRow> rows;
  for (const json& r : fixture().at("pairs")) {
    const auto prompt = r.at("prompt").get<Ids>();
    rows.push_back({tokens.add(prompt, r.at("chosen").get<Ids>()), tokens.add(prompt, r.at("rejected").get<Ids>()), 0.0});
  }
  if (method == "dpo") return std::make_unique<methods::Dpo>(rows, options, 4096);
  if (method == "orpo") return std::make_unique<methods::Orpo>(rows, options, 4096);
  return std::make_unique<methods::Simpo>(rows, options, 4096);
}

class GoldenPreferences : public testing::TestWithParam<size_t> {};

TEST_P(GoldenPreferences, LossGradientsAndMetricsOfTrl) {
  const json& c = fixture().at("cases").at(GetParam());
  static const auto oracle = golden::read_oracle(golden::golden_path("preferences/gradients.safetensors"));
  const std::vector<double>& gradients = oracle.at(c.at("name")).values;
  const bool swapped = c.value("swapped", false);
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    SCOPED_TRACE(backend == ops::Backend::kernels ? "kernels" : "reference");
    const auto policy = test::load_golden(swapped ? "preferences/reference" : "preferences/policy", backend);
    const auto reference = test::load_golden(swapped ? "preferences/policy" : "preferences/reference", backend);
    for (ops::Parameter* p : policy->parameters()) ops::enable_gradient(*p);
    test::TokenRows tokens;
    const std::unique_ptr<methods::Method> method = method_of(c, tokens);
    test::score_reference(*method, *reference);
    const train::StepSums sums = train::run_rows(*policy, *method, test::all_rows(*method), {30, true, false});
    EXPECT_LE(std::abs(sums.loss - c.at("loss").get<double>()), kBound * std::abs(c.at("loss").get<double>()));

    std::map<std::string, std::vector<float>> ours;
    for (const ops::Parameter* p : policy->parameters())
      for (const ops::Part& part : p->parts) ours[part.name] = test::gradient_of(*p, part);
    size_t at = 0;
    for (const json& parameter : fixture().at("parameters")) {
      const auto count = parameter[1].get<size_t>();
      ASSERT_LE(at + count, gradients.size());
      const std::vector<double> wanted(gradients.begin() + static_cast<int64_t>(at), gradients.begin() + static_cast<int64_t>(at + count));
      EXPECT_LE(test::relative_error(ours[parameter[0]], wanted), kBound) << parameter[0];
      at += count;
    }
    EXPECT_EQ(at, gradients.size());
    EXPECT_EQ(ours.size(), fixture().at("parameters").size());

    const std::map<std::string, double> metrics(sums.metrics.begin(), sums.metrics.end());
    EXPECT_EQ(metrics.size(), sums.metrics.size()) << "a metric stands twice";
    for (const auto& [key, value] : c.at("metrics").items()) {
      ASSERT_TRUE(metrics.count(key)) << key;
      EXPECT_LE(std::abs(metrics.at(key) - value.get<double>()), kBound * std::max(kScale, std::abs(value.get<double>()))) << key;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Trl, GoldenPreferences, testing::Range<size_t>(0, fixture().at("cases").size()),
                         [](const auto& info) { return fixture().at("cases").at(info.param).at("name").template get<std::string>(); });

}  // namespace preferences_test
}  // namespace hone
