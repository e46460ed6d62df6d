// Which modules an adapter means, what is refused and how, files both ways, merging.
#include <ATen/core/grad_mode.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "hone/adapters/modules.h"
#include "support/golden_model.h"
#include "support/run_job.h"

namespace hone::adapters {
namespace {

struct Opened {
  std::unique_ptr<model::ModelSource> source = model::open_model(golden::golden_path("models/tied_gqa2").string());
  std::unique_ptr<model::Model> model = model::load_model(*source, ops::Backend::kernels, at::kCPU, 64);
};

LoraConfig small() {
  LoraConfig c;
  c.r = 4;
  return c;
}

std::string refusal(const LoraConfig& config) {
  try {
    Opened opened;
    create_adapter(*opened.model, *opened.source, config, 1);
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

TEST(Modules, NamesEndingsExpressionsAndAll) {
  const model::ModelConfig config = Opened().model->config;
  LoraConfig c = small();
  const auto count = [&](std::vector<std::string> targets) {
    c.target_modules = std::move(targets);
    return static_cast<int64_t>(targeted_modules(config, c).size());
  };
  const int64_t layers = config.num_hidden_layers;
  EXPECT_EQ(count({"all-linear"}), 7 * layers);
  EXPECT_EQ(count({"q_proj", "v_proj"}), 2 * layers);
  EXPECT_EQ(count({"self_attn.q_proj"}), layers);
  EXPECT_EQ(count({"model.layers.0.mlp.down_proj"}), 1);
  EXPECT_EQ(count({".*\\.(gate|up)_proj"}), 2 * layers);
  EXPECT_EQ(count({"model\\.layers\\.0\\..*", "o_proj"}), 7 + layers - 1);
}

TEST(Modules, WhatIsWrongIsNamedWithTheNearest) {
  LoraConfig c = small();
  c.target_modules = {"qproj"};
  EXPECT_NE(refusal(c).find("did you mean q_proj?"), std::string::npos) << refusal(c);
  c.target_modules = {"lm_head"};
  EXPECT_NE(refusal(c).find("--lora_modules_to_save lm_head"), std::string::npos) << refusal(c);
  c.target_modules = {"(unclosed"};
  EXPECT_NE(refusal(c).find("--lora_target_modules"), std::string::npos) << refusal(c);
  c = small();
  c.r = 4096;
  EXPECT_NE(refusal(c).find("its rank is at most"), std::string::npos) << refusal(c);
  c = small();
  c.modules_to_save = {"lm_haed"};
  EXPECT_NE(refusal(c).find("did you mean lm_head?"), std::string::npos) << refusal(c);
  c = small();
  c.use_dora = true;
  c.lora_dropout = 0.1;
  EXPECT_NE(refusal(c).find("DoRA"), std::string::npos) << refusal(c);
}

TEST(Adapter, BeginsAsTheFieldsStandardDoes) {
  Opened opened;
  const auto adapter = create_adapter(*opened.model, *opened.source, small(), 1);
  int64_t seen = 0;
  for (const ops::Parameter* p : adapter->parameters)
    for (const ops::Part& part : p->parts) {
      std::vector<float> v(part.rows * std::max<int64_t>(p->cols, 1));
      ops::get_part(*p, part, v.data());
      if (part.name.ends_with(".lora_B.weight")) {
        EXPECT_TRUE(std::all_of(v.begin(), v.end(), [](float x) { return x == 0; })) << part.name;
        continue;
      }
      double sum = 0, squares = 0;
      const double bound = 1 / std::sqrt(static_cast<double>(p->cols));
      for (float x : v) {
        EXPECT_LE(std::abs(x), bound);
        sum += x, squares += static_cast<double>(x) * x;
      }
      const auto n = static_cast<double>(v.size());
      // A uniform law of half-width b has deviation b / sqrt 3; five deviations of the estimates.
      EXPECT_NEAR(sum / n, 0, 5 * bound / std::sqrt(3 * n));
      EXPECT_NEAR(std::sqrt(squares / n), bound / std::sqrt(3.0), 5 * bound / std::sqrt(n));
      ++seen;
    }
  EXPECT_EQ(seen, 7 * opened.model->config.num_hidden_layers);
  Opened again;
  EXPECT_EQ(test::all_values(*adapter), test::all_values(*create_adapter(*again.model, *again.source, small(), 1)));
  EXPECT_NE(test::all_values(*adapter), test::all_values(*create_adapter(*again.model, *again.source, small(), 2)));
}

void perturb(Adapter& adapter) {
  float by = 0.001f;
  for (ops::Parameter* p : adapter.parameters) p->value.detach().add_(by += 0.001f);
  updated(adapter);
}

std::vector<float> logits(model::Model& model, const Adapter* adapter) {
  batch::PackedBatch packed;
  const std::vector<int32_t> ids{1, 5, 9, 2, 7, 11, 3};
  batch::append_document(packed, ids.data(), nullptr, 7, true);
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  const ops::AdapterSet* set = adapter ? &adapter->set : nullptr;
  at::NoGradGuard no_grad;
  const at::Tensor out = ops::head_logits(model::decoder(model, set, tensors, {}), model.head(set));
  return {out.const_data_ptr<float>(), out.const_data_ptr<float>() + out.numel()};
}

TEST(AdapterFiles, WhatIsSavedIsReadBackToTheBitAndPissaBecomesPlainLora) {
  for (const bool pissa : {false, true})
    for (const bool dora : {false, true}) {
      Opened opened;
      LoraConfig c = small();
      c.use_dora = dora;
      if (pissa) c.init_lora_weights = InitLora::pissa;
      if (dora) c.modules_to_save = {"lm_head"};
      const std::vector<float> untouched = logits(*opened.model, nullptr);
      const auto adapter = create_adapter(*opened.model, *opened.source, c, 1);
      // PiSSA at the start is the base itself, up to the rounding of W - s B A + s B A.
      if (pissa) {
        EXPECT_LE(test::relative_error(logits(*opened.model, adapter.get()), untouched), 2e-6);
      }
      perturb(*adapter);
      const std::vector<float> wanted = logits(*opened.model, adapter.get());
      test::TemporaryRun folder;
      save_adapter(*adapter, folder.path / "adapter");
      Opened fresh;
      const auto read = load_adapter(*fresh.model, read_peft(folder.path / "adapter"), fresh.source->content_hash(), false);
      if (pissa) {
        EXPECT_LE(test::relative_error(logits(*fresh.model, read.get()), wanted), 5e-6);  // rank 2 r on the untouched base: another order of sums
      } else {
        EXPECT_EQ(logits(*fresh.model, read.get()), wanted);
      }
      EXPECT_THROW(load_adapter(*fresh.model, read_peft(folder.path / "adapter"), "another base", false), UserError);
    }
}

TEST(AdapterFiles, NanIsNamed) {
  Opened opened;
  const auto adapter = create_adapter(*opened.model, *opened.source, small(), 1);
  adapter->parameters[1]->value.detach().view({-1})[0] = std::numeric_limits<float>::quiet_NaN();
  test::TemporaryRun folder;
  save_adapter(*adapter, folder.path / "adapter");
  try {
    load_adapter(*opened.model, read_peft(folder.path / "adapter"), opened.source->content_hash(), false);
    FAIL() << "NaN was accepted";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("NaN"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("lora_B"), std::string::npos) << e.what();
  }
}

// Merging into the values used in training: a model of the merged tensors gives the logits of base + adapter.
TEST(Merge, GivesTheSameLogits) {
  for (const bool four_bit : {false, true})
    for (const bool dora : {false, true}) {
      SCOPED_TRACE(testing::Message() << "4-bit " << four_bit << " dora " << dora);
      Opened opened;
      if (four_bit) opened.model = model::load_model(*opened.source, ops::Backend::kernels, at::kCPU, 64, model::Quantisation{});
      LoraConfig c = small();
      c.use_dora = dora;
      c.modules_to_save = {"norm"};
      const auto adapter = create_adapter(*opened.model, *opened.source, c, 1);
      perturb(*adapter);
      const std::vector<float> wanted = logits(*opened.model, adapter.get());
      Opened merged;
      for (ops::Parameter* p : merged.model->parameters())
        for (const ops::Part& part : p->parts) {
          std::vector<float> rows(part.rows * std::max<int64_t>(p->cols, 1));
          merged_tensor(*opened.model, *adapter, part.name, 0, part.rows, rows.data());
          ops::set_part(*p, part, rows.data());
        }
      EXPECT_LE(test::relative_error(logits(*merged.model, nullptr), wanted), 2e-6);  // one product instead of two: rounding only
      EXPECT_FALSE(unties_head(*opened.model, *adapter));
    }
}

}  // namespace
}  // namespace hone::adapters
