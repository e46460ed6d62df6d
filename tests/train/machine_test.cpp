// The memory plan: what a run's micro-batches may hold.
#include "hone/train/machine.h"

#include <gtest/gtest.h>

#include "hone/base/error.h"
#include "hone/model/decoder.h"

namespace hone {
namespace {

constexpr double kRoom = 64e9;

model::ModelConfig small_model() {
  model::ModelConfig m;
  m.vocab_size = 49152;
  m.hidden_size = 576;
  m.intermediate_size = 1536;
  m.num_hidden_layers = 30;
  m.num_attention_heads = 9;
  m.num_key_value_heads = 3;
  m.head_dim = 64;
  return m;
}

train::MemoryDemand adapter_demand() { return {.weights = 540e6, .trained = 5e6, .adapter = true, .adapter_rank = 16}; }

TEST(MemoryPlan, RowsAboveAnAdaptersBudgetAreComputedTwiceSoThatTheyDoNotSetThePeak) {
  const model::ModelConfig m = small_model();
  const train::MemoryPlan plan = train::plan_memory(m, adapter_demand(), {}, {400, 180}, kRoom);
  EXPECT_EQ(plan.micro_batch_tokens, 256);
  EXPECT_EQ(plan.checkpoint_above, 256);
  EXPECT_FALSE(plan.checkpointing);
  EXPECT_LT(plan.activation_bytes, 257.0 * static_cast<double>(model::activation_bytes_per_token(m, false, 16)));
}

TEST(MemoryPlan, WhereMostRowsAreLongTheBudgetHoldsTheLongest) {
  const train::MemoryPlan plan = train::plan_memory(small_model(), adapter_demand(), {}, {1200, 900}, kRoom);
  EXPECT_EQ(plan.micro_batch_tokens, 1200);
  EXPECT_EQ(plan.checkpoint_above, train::MemoryPlan::kNever);
  EXPECT_FALSE(plan.checkpointing);
}

TEST(MemoryPlan, AGivenBudgetStands) {
  config::LoopOptions loop;
  loop.micro_batch_tokens = 1024;
  const train::MemoryPlan plan = train::plan_memory(small_model(), adapter_demand(), loop, {400, 180}, kRoom);
  EXPECT_EQ(plan.micro_batch_tokens, 1024);
  EXPECT_EQ(plan.checkpoint_above, 1024);
}

TEST(MemoryPlan, AllOfTheModelIsTrainedWithTheLongestRowAtOnceWhereItFits) {
  train::MemoryDemand demand{.weights = 540e6, .trained = 135e6};
  const model::ModelConfig m = small_model();
  const train::MemoryPlan plan = train::plan_memory(m, demand, {}, {700, 180}, kRoom);
  EXPECT_EQ(plan.micro_batch_tokens, 700);
  EXPECT_EQ(plan.checkpoint_above, train::MemoryPlan::kNever);
  // Room for the longest row only when it is computed twice.
  const double bytes = plan.static_bytes + 700.0 * static_cast<double>(model::activation_bytes_per_token(m, true)) * 1.5;
  const train::MemoryPlan tight = train::plan_memory(m, demand, {}, {700, 180}, bytes / 0.85);
  EXPECT_TRUE(tight.checkpointing);
  EXPECT_GE(tight.micro_batch_tokens, 700);
}

TEST(MemoryPlan, OnPolicyRunsComputeLargeGroupsTwiceUnlessToldOtherwise) {
  train::MemoryDemand demand{.weights = 540e6, .trained = 135e6, .on_policy = true};
  const train::MemoryPlan plan = train::plan_memory(small_model(), demand, {}, {1200, 1200}, kRoom);
  EXPECT_TRUE(plan.checkpointing);
  EXPECT_EQ(plan.activation_bytes_per_token, model::activation_bytes_per_token(small_model(), true));
  EXPECT_FALSE(train::plan_memory(small_model(), demand, {}, {300, 300}, kRoom).checkpointing) << "its activations are a small share of the weights";
  config::LoopOptions loop;
  loop.gradient_checkpointing = false;
  EXPECT_FALSE(train::plan_memory(small_model(), demand, loop, {1200, 1200}, kRoom).checkpointing);
}

TEST(MemoryPlan, TooLittleForTheLongestRowIsRefused) {
  EXPECT_THROW(train::plan_memory(small_model(), adapter_demand(), {}, {400, 180}, 0.5e9), UserError);
}

}  // namespace
}  // namespace hone
