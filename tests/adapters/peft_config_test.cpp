// Which modules an adapter_config.json means, read and written.
#include "hone/adapters/peft_config.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

namespace hone::adapters {
namespace {

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
constexpr const char* kV = "model.layers.1.self_attn.v_proj";

TEST(PeftConfigTest, TargetsAsPeftMatchesThem) {
  const auto targets = [](const nlohmann::ordered_json& changes) {
    nlohmann::ordered_json config{{"peft_type", "LORA"}};
    config.update(changes);
    const PeftConfig parsed = parse_peft_config(config.dump(), "test");
    std::string found;
    for (const char* module : {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.11.self_attn.q_proj",
                               "model.layers.1.mlp.xq_proj", "lm_head"})
      found += is_target(parsed, module) ? '1' : '0';
    return found;
  };
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}}), "11100");
  EXPECT_EQ(targets({{"target_modules", {"layers.1.self_attn.q_proj"}}}), "01000");
  EXPECT_EQ(targets({{"target_modules", nullptr}}), "11100");  // PEFT's choice for llama: q_proj, v_proj
  EXPECT_EQ(targets({{"target_modules", "all-linear"}}), "11110");
  EXPECT_EQ(targets({{"target_modules", ".*q_proj"}}), "11110");
  EXPECT_EQ(targets({{"target_modules", "q_proj"}}), "00000");  // an expression matches the whole name
  EXPECT_EQ(targets({{"target_modules", R"(.*layers\.(0|11)\..*_proj)"}}), "10100");
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}, {"exclude_modules", {"layers.1.self_attn.q_proj"}}}), "10100");
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}, {"exclude_modules", R"(.*\.0\..*)"}}), "01100");
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}, {"layers_to_transform", {0, 11}}}), "10100");
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}, {"layers_to_transform", 1}, {"layers_pattern", "layers"}}), "01000");
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}, {"layers_to_transform", 1}, {"layers_pattern", {"h", "block"}}}), "00000");
  EXPECT_EQ(targets({{"target_modules", {"q_proj"}}, {"modules_to_save", {"layers.1"}}}), "10100");
  EXPECT_EQ(targets({{"target_modules", {"q_proj", "lm_head"}}, {"modules_to_save", {"lm_head"}}}), "11100");
}

TEST(PeftConfigTest, TargetsAreWrittenSoThatPeftMeansTheSameModules) {
  const std::map<std::string, ModuleRank> modules{{kQ, {4, 8}}, {kV, {4, 8}}};
  const auto written = [&](const std::vector<std::string>& targets) {
    LoraConfig config;
    config.target_modules = targets;
    return nlohmann::json::parse(peft_config_text(config, modules))["target_modules"].get<std::vector<std::string>>();
  };
  EXPECT_EQ(written({"all-linear"}), (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(written({"v_proj", "self_attn.q_proj"}), (std::vector<std::string>{"self_attn.q_proj", "v_proj"}));
  EXPECT_EQ(written({".*\\.(q|v)_proj"}), (std::vector<std::string>{kQ, kV}));
  EXPECT_EQ(written({"q_proj", ".*v_proj"}), (std::vector<std::string>{kQ, kV}));
  EXPECT_EQ(written({"model.layers.0"}), (std::vector<std::string>{kQ, kV}));  // no name of PEFT's for these modules
}

}  // namespace
}  // namespace hone::adapters
