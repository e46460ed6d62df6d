// Gradient checkpointing with adapters: what the forward keeps is the blocks' inputs and nothing else, from the lowest trained block up.
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include "hone/adapters/lora.h"
#include "support/golden_model.h"

namespace hone {
namespace {

// Bytes that this thread holds of LibTorch's CPU allocator, from its making on.
class HeldBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override { bytes += size; }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t bytes = 0;
};

constexpr int64_t kTokens = 256;  // so that scalars beside the activations are below a column

// What the forward of a model with an adapter on `targets` leaves for the backward, in float32 columns per token.
double kept_columns(const std::vector<std::string>& targets, bool checkpointing) {
  const auto source = model::open_model(golden::golden_path("models/tied_gqa2").string());
  const auto model = model::load_model(*source, ops::Backend::kernels, at::kCPU, kTokens);
  adapters::LoraConfig config;
  config.r = 4;
  config.target_modules = targets;
  const auto adapter = adapters::create_adapter(*model, *source, config, 1);
  batch::PackedBatch packed;
  const std::vector<int32_t> ids(kTokens, 5);
  batch::append_document(packed, ids.data(), nullptr, kTokens);
  const ops::BatchTensors tensors = ops::make_batch_tensors(packed, at::kCPU);
  const auto held = std::make_shared<HeldBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, held);
  const at::Tensor hidden = model::decoder(*model, &adapter->set, tensors, {.training = true, .checkpointing = checkpointing});
  EXPECT_TRUE(hidden.requires_grad());
  return static_cast<double>(held->bytes) / (4.0 * kTokens);
}

TEST(CheckpointingWithAdapters, KeepsTheInputsOfBlocksAlsoOfTheLowest) {
  const model::ModelConfig config = model::open_model(golden::golden_path("models/tied_gqa2").string())->config();
  const int64_t D = config.hidden_size, layers = config.num_hidden_layers;
  ASSERT_GE(layers, 2);
  // The blocks' inputs, the last one's output, the final norm's output and its rstd; a column for the small rest.
  EXPECT_LE(kept_columns({"all-linear"}, true), static_cast<double>((layers + 2) * D + 2));
  EXPECT_GT(kept_columns({"all-linear"}, false), static_cast<double>((layers + 2) * D + layers * 2 * config.intermediate_size));
  // Below the lowest side path nothing is kept at all.
  const std::string last = ".*layers\\." + std::to_string(layers - 1) + "\\..*";
  EXPECT_LE(kept_columns({last}, true), static_cast<double>(3 * D + 2));
}

}  // namespace
}  // namespace hone
