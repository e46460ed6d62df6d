// The llama decoder against transformers 5.23 in float64: logits, log-probabilities, entropy, loss and every gradient, for each model option
// and both backends.
#include <ATen/core/grad_mode.h>

#include <gtest/gtest.h>

#include "hone/train/micro_batch.h"
#include "hone/train/optimizer.h"
#include "support/golden_model.h"

namespace hone {
namespace llama_test {

// float32 against a float64 oracle, in the Euclidean norm of each tensor: the bound. Rounding alone gives about 5e-7 here.
constexpr double kBound = 1e-5;

using Case = std::tuple<std::string, ops::Backend>;

class GoldenLlama : public testing::TestWithParam<Case> {
 protected:
  std::string folder() const { return "models/" + std::get<0>(GetParam()); }
  ops::Backend backend() const { return std::get<1>(GetParam()); }
  std::map<std::string, golden::OracleTensor> oracle() const { return golden::read_oracle(golden::golden_path(folder()) / "oracle.safetensors"); }
};

TEST_P(GoldenLlama, LogitsLogprobsAndEntropyOfPackedDocuments) {
  const auto oracle = this->oracle();
  const test::RowSet rows = test::documents_of(oracle);
  const auto model = test::load_golden(folder(), backend());
  batch::PackedBatch packed;
  for (const auto& ids : rows.ids) batch::append_document(packed, ids.data(), nullptr, static_cast<int64_t>(ids.size()), true);
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  const at::Tensor hidden = model::decoder(*model, nullptr, tensors, {});
  ops::LogprobOptions options;
  options.statistics = true;
  const ops::TokenLogprobs logprobs = ops::token_logprobs(hidden, model->head(), tensors, options);
  const at::Tensor logits = ops::head_logits(hidden, model->head());
  int64_t token = 0, prediction = 0;
  for (int k = 0; k < 3; ++k) {
    const auto length = static_cast<int64_t>(rows.ids[k].size());
    const auto compare = [&](const char* what, const at::Tensor& values) {
      const at::Tensor flat = values.contiguous().view({-1});
      EXPECT_LE(test::relative_error(std::vector<float>(flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()),
                                     oracle.at(what + std::to_string(k)).values),
                kBound)
          << what << k;
    };
    if (oracle.count("logits." + std::to_string(k))) compare("logits.", logits.slice(0, token, token + length));
    compare("logprobs.", logprobs.logprobs.slice(0, prediction, prediction + length - 1));
    compare("entropy.", logprobs.entropy.slice(0, prediction, prediction + length - 1));
    token += length;
    prediction += length - 1;
  }
  const at::Tensor p = logits.index_select(0, tensors.predict_from).log_softmax(-1);
  EXPECT_TRUE(at::allclose(logprobs.log_sum_p2, (2 * p).logsumexp(-1), 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(logprobs.mean_logit, logits.index_select(0, tensors.predict_from).mean(-1), 1e-4, 1e-5));
}

TEST_P(GoldenLlama, LossAndEveryGradient) {
  const auto oracle = this->oracle();
  const test::RowSet rows = test::documents_of(oracle);
  const methods::Sft method = rows.method();
  const std::vector<int64_t> all{0, 1, 2};
  for (const bool checkpointing : {false, true}) {
    const auto model = test::load_golden(folder(), backend());
    for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
    const train::StepSums sums = train::run_rows(*model, method, all, {20, true, checkpointing});
    EXPECT_NEAR(sums.loss, oracle.at("loss").values[0], kBound * oracle.at("loss").values[0]);
    ASSERT_EQ(sums.metrics[0].first, "mean_token_accuracy");
    EXPECT_NEAR(sums.metrics[0].second, oracle.at("accuracy").values[0], 1e-12);
    EXPECT_NEAR(sums.metrics[1].second, oracle.at("entropy_mean").values[0], kBound * oracle.at("entropy_mean").values[0]);
    size_t compared = 0;
    for (const ops::Parameter* p : model->parameters())
      for (const ops::Part& part : p->parts) {
        EXPECT_LE(test::relative_error(test::gradient_of(*p, part), oracle.at("grad." + part.name).values), kBound) << part.name;
        ++compared;
      }
    EXPECT_EQ(compared, std::count_if(oracle.begin(), oracle.end(), [](const auto& entry) { return entry.first.rfind("grad.", 0) == 0; }));
  }
}

// The other road through the head: cotangents that are not known before the forward, of log-probabilities and of entropy.
TEST_P(GoldenLlama, HeadBackwardWithoutKnownCotangentsAgrees) {
  const test::RowSet rows = test::documents_of(oracle());
  const auto gradients = [&](ops::Backend backend) {
    const auto model = test::load_golden(folder(), backend);
    for (ops::Parameter* p : model->parameters()) ops::enable_gradient(*p);
    batch::PackedBatch packed;
    for (const auto& ids : rows.ids) batch::append_document(packed, ids.data(), nullptr, static_cast<int64_t>(ids.size()), true);
    const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
    at::AutoGradMode grad(true);
    ops::LogprobOptions options;
    options.temperature = 0.7;
    const ops::TokenLogprobs out = ops::token_logprobs(model::decoder(*model, nullptr, tensors, {.training = true}), model->head(), tensors, options);
    (out.logprobs.square().sum() + 0.3 * out.entropy.exp().sum()).backward();
    ops::flush_lookups(model->embedding);
    return test::all_gradients(*model);
  };
  EXPECT_LE(test::relative_error(gradients(backend()), gradients(ops::Backend::reference)), kBound);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenLlama,
                         testing::Combine(testing::ValuesIn(test::golden_models()), testing::Values(ops::Backend::kernels, ops::Backend::reference)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + (std::get<1>(info.param) == ops::Backend::kernels ? "_kernels" : "_reference");
                         });

// The GGUF files hold the same weights as the folder beside them, in every tensor type and with interleaved Q/K rows.
TEST(GoldenGguf, LogitsOfEveryTensorType) {
  for (const std::string file : {"gguf/mixed.gguf", "gguf/untied.gguf"}) {
    const auto path = golden::golden_path(file);
    const auto wanted = golden::read_oracle(file == "gguf/untied.gguf" ? golden::golden_path("gguf/untied.oracle.safetensors")
                                                                       : golden::golden_path("gguf/hf/oracle.safetensors"));
    const auto model = model::load_model(*model::open_model(path.string()), ops::Backend::kernels, at::kCPU, 64);
    const test::RowSet rows = test::documents_of(wanted);
    for (size_t k = 0; k < rows.ids.size(); ++k) {
      batch::PackedBatch packed;
      batch::append_document(packed, rows.ids[k].data(), nullptr, static_cast<int64_t>(rows.ids[k].size()), true);
      const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
      const at::Tensor logprobs = ops::token_logprobs(model::decoder(*model, nullptr, tensors, {}), model->head(), tensors, {}).logprobs;
      EXPECT_LE(test::relative_error(std::vector<float>(logprobs.const_data_ptr<float>(), logprobs.const_data_ptr<float>() + logprobs.numel()),
                                     wanted.at("logprobs." + std::to_string(k)).values),
                kBound)
          << file << " document " << k;
    }
  }
}

}  // namespace llama_test
}  // namespace hone
