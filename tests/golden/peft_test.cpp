// Adapters against PEFT 0.21 in float64: its files, its logits, log-probabilities, loss and the gradient of every adapter tensor, merged weights.
#include <ATen/core/grad_mode.h>

#include <gtest/gtest.h>

#include <set>

#include "hone/train/micro_batch.h"
#include "support/golden_model.h"

namespace hone {
namespace peft_test {

// float32 against a float64 oracle in the Euclidean norm of each tensor: as for the base (llama_test.cpp); rounding alone gives below 1e-6.
constexpr double kBound = 1e-5;

struct Loaded {
  std::unique_ptr<model::ModelSource> source;
  std::unique_ptr<model::Model> model;
  std::unique_ptr<adapters::Adapter> adapter;
};

Loaded load(const std::string& name, ops::Backend backend) {
  const adapters::PeftAdapter files = adapters::read_peft(golden::golden_path("peft/" + name));
  Loaded l;
  l.source = model::open_model(golden::golden_path(files.config.base_model_name_or_path).string());
  l.model = model::load_model(*l.source, backend, at::kCPU, 64);
  l.adapter = adapters::load_adapter(*l.model, files, l.source->content_hash(), true);
  return l;
}

std::vector<float> floats(const at::Tensor& t) {
  const at::Tensor flat = t.detach().contiguous().view({-1});
  return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
}

using Case = std::tuple<std::string, ops::Backend>;
class GoldenPeft : public testing::TestWithParam<Case> {};

TEST_P(GoldenPeft, LogitsLossAndEveryGradient) {
  const auto& [name, backend] = GetParam();
  const auto oracle = golden::read_oracle(golden::golden_path("peft/" + name) / "oracle.safetensors");
  const test::RowSet rows = test::documents_of(oracle);
  const methods::Sft method = rows.method();
  for (const bool checkpointing : {false, true}) {
    SCOPED_TRACE(testing::Message() << "checkpointing " << checkpointing);
    const Loaded l = load(name, backend);
    const std::vector<float> base = test::all_values(*l.model);
    for (size_t k = 0; k < rows.ids.size(); ++k) {
      const std::string logits_name = "logits." + std::to_string(k);
      if (!oracle.count(logits_name)) continue;
      batch::PackedBatch packed;
      batch::append_document(packed, rows.ids[k].data(), nullptr, static_cast<int64_t>(rows.ids[k].size()), true);
      const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
      at::NoGradGuard no_grad;
      const at::Tensor logits = ops::head_logits(model::decoder(*l.model, &l.adapter->set, tensors, {}), l.model->head(&l.adapter->set));
      EXPECT_LE(test::relative_error(floats(logits), oracle.at(logits_name).values), kBound) << logits_name;
    }
    const std::vector<int64_t> all{0, 1, 2};
    const train::StepSums sums = train::run_rows(
        *l.model, method, all, {.micro_batch_tokens = 20, .training = true, .checkpointing = checkpointing, .adapters = &l.adapter->set});
    EXPECT_NEAR(sums.loss, oracle.at("loss").values[0], kBound * oracle.at("loss").values[0]);
    std::set<std::string> compared;
    for (const ops::Parameter* p : l.adapter->parameters)
      for (const ops::Part& part : p->parts) {
        ASSERT_TRUE(oracle.count("grad." + part.name)) << part.name;
        EXPECT_LE(test::relative_error(test::gradient_of(*p, part), oracle.at("grad." + part.name).values), kBound) << part.name;
        compared.insert("grad." + part.name);
      }
    for (const auto& [key, tensor] : oracle) EXPECT_TRUE(key.rfind("grad.", 0) != 0 || compared.count(key)) << key << " has no counterpart";
    EXPECT_EQ(test::all_values(*l.model), base);  // the frozen base's bytes never change
    for (const ops::Parameter* p : l.model->parameters()) EXPECT_FALSE(p->grad.defined()) << p->name() << ": a frozen weight has a gradient buffer";
  }
}

TEST_P(GoldenPeft, MergedWeights) {
  const auto& [name, backend] = GetParam();
  const auto oracle = golden::read_oracle(golden::golden_path("peft/" + name) / "oracle.safetensors");
  const Loaded l = load(name, backend);
  for (const auto& [key, wanted] : oracle) {
    if (key.rfind("merged.", 0) != 0) continue;
    std::string tensor = key.substr(7);
    if (!tensor.ends_with(".weight")) tensor += ".weight";
    const int64_t rows = wanted.shape[0];
    std::vector<float> merged(wanted.values.size());
    adapters::merged_tensor(*l.model, *l.adapter, tensor, 0, rows, merged.data());
    EXPECT_LE(test::relative_error(merged, wanted.values), 1e-6) << key;  // one float32 chain over r
  }
}

INSTANTIATE_TEST_SUITE_P(Options, GoldenPeft,
                         testing::Combine(testing::Values("default", "rslora", "dora", "dora_bias", "qv", "regex", "untied", "bias", "patterns",
                                                          "head_tied", "head_untied", "embedding_tied", "embedding_head_norm", "pissa_converted"),
                                          testing::Values(ops::Backend::kernels, ops::Backend::reference)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + (std::get<1>(info.param) == ops::Backend::kernels ? "_kernels" : "_reference");
                         });

// PiSSA at the start: B A and what it leaves, against PEFT's initialisation in float64.
TEST(GoldenPissa, Beginning) {
  const auto oracle = golden::read_oracle(golden::golden_path("peft/pissa") / "oracle.safetensors");
  const auto source = model::open_model(golden::golden_path("models/tied_gqa2").string());
  const auto model = model::load_model(*source, ops::Backend::kernels, at::kCPU, 64);
  nlohmann::json config = nlohmann::json::parse(std::ifstream(golden::golden_path("peft/pissa") / "adapter_config.json"));
  adapters::LoraConfig lora;
  lora.r = config.at("r");
  lora.lora_alpha = config.at("lora_alpha");
  lora.init_lora_weights = adapters::InitLora::pissa;
  const auto adapter = adapters::create_adapter(*model, *source, lora, 1);
  size_t compared = 0;
  for (const auto& [weight, path] : adapter->set.paths)
    for (size_t i = 0; i < path->targets.size(); ++i) {
      const ops::SideTarget& t = path->targets[i];
      const std::string module = t.b.name().substr(0, t.b.name().size() - std::string(".lora_B.weight").size());
      std::vector<float> rest(t.rows * weight->cols);
      ops::get_part(*weight, {"", t.row_begin, t.rows}, rest.data());
      EXPECT_LE(test::relative_error(rest, oracle.at("residual." + module).values), 1e-6) << module;  // float32 values of a float64 decomposition
      const at::Tensor ba = at::matmul(ops::plain_value(t.b), ops::plain_value(path->a).slice(0, t.a_begin, t.a_begin + t.r));
      EXPECT_LE(test::relative_error(floats(ba), oracle.at("ba." + module).values), 1e-6) << module;
      ++compared;
    }
  EXPECT_EQ(compared, 14u);
}

}  // namespace peft_test
}  // namespace hone
