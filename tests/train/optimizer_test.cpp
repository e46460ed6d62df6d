// The optimizer over parameters in their own layouts: blocks of the checkpoint's tensors, spilled states, the LoRA+ factor, checkpoints.
#include "hone/train/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <filesystem>

#include "hone/base/error.h"
#include "hone/base/rng.h"
#include "hone/base/threads.h"
#include "hone/kernels/quant.h"
#include "hone/train/checkpoint.h"

namespace hone::train {
namespace {

namespace fs = std::filesystem;

struct Scratch {
  fs::path path = fs::path(testing::TempDir()) / fmt::format("hone-optimizer-{}-{}", ::getpid(), count++);
  Scratch() { fs::create_directories(path); }
  ~Scratch() { fs::remove_all(path); }
  static inline int count = 0;
};

std::vector<float> numbers(int64_t count, uint32_t stream) {
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<float>(static_cast<double>(philox4x32(stream, {static_cast<uint32_t>(i), 0, 0, 0})[0]) * 0x1p-31 - 1.0);
  return out;
}

// A fused matrix whose parts begin in the middle of panels (k, 2199 elements, is a small one) and end in blocks that are not full, a wide one
// of several slabs, one of a single row, and a vector.
struct Model {
  std::deque<ops::Parameter> parameters;
  explicit Model(ops::Backend backend) {
    const at::TensorOptions options(at::kFloat);
    parameters.push_back(ops::make_parameter({{"q", 0, 37}, {"k", 37, 3}, {"v", 40, 61}}, 733, backend, options));
    parameters.push_back(ops::make_parameter({{"wide", 0, 700}}, 640, backend, options));
    parameters.push_back(ops::make_parameter({{"one_row", 0, 1}}, 5000, backend, options));
    parameters.push_back(ops::make_parameter({{"norm", 0, 4500}}, 0, backend, options));
    uint32_t stream = 1;
    for (ops::Parameter& p : parameters) {
      ops::enable_gradient(p);
      for (const ops::Part& part : p.parts) ops::set_part(p, part, numbers(elements(p, part), stream++).data());
    }
  }
  static int64_t elements(const ops::Parameter& p, const ops::Part& part) { return part.rows * std::max<int64_t>(p.cols, 1); }
  std::vector<ops::Parameter*> pointers() {
    std::vector<ops::Parameter*> all;
    for (ops::Parameter& p : parameters) all.push_back(&p);
    return all;
  }
  static std::vector<float> gradient(const ops::Parameter& p, const ops::Part& part, int step) {
    return numbers(elements(p, part), static_cast<uint32_t>(1000 * step + 17 * part.row_begin + p.cols + p.rows));
  }
  void set_gradients(int step) {
    at::NoGradGuard no_grad;
    for (ops::Parameter& p : parameters)
      for (const ops::Part& part : p.parts) {
        ops::Parameter copy = p;
        copy.value = p.grad;  // set_part writes into `value`, here the gradient's memory
        ops::set_part(copy, part, gradient(p, part, step).data());
      }
  }
  std::vector<float> values(const std::string& name) const {
    for (const ops::Parameter& p : parameters)
      for (const ops::Part& part : p.parts) {
        if (part.name != name) continue;
        std::vector<float> out(static_cast<size_t>(elements(p, part)));
        ops::get_part(p, part, out.data());
        return out;
      }
    return {};
  }
};

constexpr double kRate = 1e-2, kScale = 0.5;

AdamwConfig eight_bit(const fs::path& spill = {}) { return {0.9, 0.95, 1e-8, 0.1, true, spill}; }

void run(Model& model, Adamw& optimizer, int first, int last) {
  for (int step = first; step <= last; ++step) {
    model.set_gradients(step);
    optimizer.step(kRate, kScale);
  }
}

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.nbytes() == b.nbytes() && a.scalar_type() == b.scalar_type() && std::memcmp(a.data_ptr(), b.data_ptr(), a.nbytes()) == 0;
}

void expect_same(Model& a, const Adamw& left, Model& b, const Adamw& right) {
  for (size_t i = 0; i < a.parameters.size(); ++i) EXPECT_TRUE(same_bits(a.parameters[i].value, b.parameters[i].value)) << a.parameters[i].name();
  const auto want = left.state_tensors(), got = right.state_tensors();
  ASSERT_EQ(want.size(), got.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(want[i].first == got[i].first && same_bits(want[i].second, got[i].second)) << want[i].first;
}

// What the optimizer must do, on flat row-major tensors.
void expect_flat_steps(const Model& model, const ops::Parameter& p, const ops::Part& part, int steps) {
  const Model start(ops::Backend::reference);
  std::vector<float> value = start.values(part.name);
  const auto count = static_cast<int64_t>(value.size());
  std::vector<uint8_t> m(value.size()), v(value.size());
  std::vector<float> m_absmax(value.size() / 256 + 1), v_absmax(m_absmax.size()), first(value.size()), second(value.size());
  double power1 = 1, power2 = 1;
  for (int step = 1; step <= steps; ++step) {
    power1 *= 0.9, power2 *= 0.95;
    const kernels::AdamwScalars s{kRate, 0.9, 0.95, 1e-8, p.is_matrix() ? 0.1 : 0.0, kScale, 1 - power1, std::sqrt(1 - power2)};
    const std::vector<float> g = Model::gradient(p, part, step);
    if (count < 4096)
      kernels::adamw_step(value.data(), g.data(), first.data(), second.data(), count, s);
    else
      kernels::adamw_8bit_step(value.data(), g.data(), m.data(), m_absmax.data(), v.data(), v_absmax.data(), count, s);
  }
  EXPECT_EQ(model.values(part.name), value) << part.name;
}

TEST(Adamw8Bit, BlocksRunOverTheCheckpointsTensors) {
  for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
    Model model(backend);
    Adamw optimizer(model.pointers(), eight_bit());
    run(model, optimizer, 1, 3);
    for (const ops::Parameter& p : model.parameters)
      for (const ops::Part& part : p.parts) expect_flat_steps(model, p, part, 3);
  }
}

TEST(Adamw8Bit, SmallTensorsKeepFloat32AndBytesAreCounted) {
  Model model(ops::Backend::kernels);
  Adamw optimizer(model.pointers(), eight_bit());
  int64_t bytes = 0;
  for (const auto& [name, tensor] : optimizer.state_tensors()) {
    const bool small = name.ends_with("/k"), absmax = name.find("absmax") != std::string::npos;
    EXPECT_EQ(tensor.scalar_type(), small || absmax ? at::kFloat : at::kByte) << name;
    bytes += static_cast<int64_t>(tensor.nbytes());
  }
  EXPECT_EQ(optimizer.state_bytes(), bytes);
  EXPECT_EQ(optimizer.resident_state_bytes(), bytes);
  EXPECT_EQ(optimizer.state_tensors().size(), 5u * 4 + 2);
}

TEST(Adamw8Bit, ThreadsDoNotMatter) {
  set_threads(1);
  Model a(ops::Backend::kernels), b(ops::Backend::kernels);
  Adamw left(a.pointers(), eight_bit()), right(b.pointers(), eight_bit());
  run(a, left, 1, 2);
  set_threads(3);
  run(b, right, 1, 2);
  set_threads(0);
  expect_same(a, left, b, right);
}

TEST(AdamwSpill, SameBitsAsInMemory) {
  const Scratch scratch;
  for (const bool bits8 : {false, true})
    for (const ops::Backend backend : {ops::Backend::kernels, ops::Backend::reference}) {
      Model a(backend), b(backend);
      AdamwConfig config = eight_bit();
      config.eight_bit = bits8;
      Adamw left(a.pointers(), config);
      config.spill_folder = scratch.path;
      Adamw right(b.pointers(), config);
      EXPECT_TRUE(fs::is_empty(scratch.path));  // unlinked: nothing is left behind by a kill
      run(a, left, 1, 3);
      run(b, right, 1, 3);
      expect_same(a, left, b, right);
      EXPECT_EQ(right.state_bytes(), left.state_bytes());
      EXPECT_EQ(right.resident_state_bytes(), 0);
    }
}

TEST(AdamwSpill, AFolderThatCannotHoldThemIsNamed) {
  Model model(ops::Backend::kernels);
  try {
    Adamw optimizer(model.pointers(), eight_bit("/nowhere/at/all"));
    FAIL() << "no error";
  } catch (const UserError& e) {
    EXPECT_NE(std::string(e.what()).find("/nowhere/at/all"), std::string::npos) << e.what();
  }
}

TEST(AdamwRate, TheFactorOfAParameterMultipliesItsRate) {
  for (const bool bits8 : {false, true}) {
    Model a(ops::Backend::kernels), b(ops::Backend::kernels);
    AdamwConfig config = eight_bit();
    config.eight_bit = bits8;
    a.parameters[1].learning_rate_scale = 16.0;
    Adamw left(a.pointers(), config), right(b.pointers(), config);
    a.set_gradients(1);
    b.set_gradients(1);
    left.step(kRate, kScale);
    right.step(16.0 * kRate, kScale);
    EXPECT_EQ(a.values("wide"), b.values("wide"));
    EXPECT_NE(a.values("q"), b.values("q"));
  }
}

// PPO's critic warm-up: what waits is not decayed either, and its own moments are corrected from its own first step.
TEST(AdamwLate, TheFirstParametersBeginLater) {
  const auto with_gradient = [](Model& model) {
    std::vector<ops::Parameter*> all = model.pointers();
    uint32_t stream = 50;
    for (ops::Parameter* p : all) p->grad.copy_(at::tensor(numbers(p->grad.numel(), stream++)).view(p->grad.sizes()));
    return all;
  };
  Model late(ops::Backend::reference), alone(ops::Backend::reference), before(ops::Backend::reference);
  Adamw waiting(with_gradient(late), {.weight_decay = 0.1, .late_parameters = 2, .late_steps = 3});
  Adamw fresh(with_gradient(alone), {.weight_decay = 0.1});
  for (int step = 0; step < 3; ++step) waiting.step(0.01, 1.0);
  for (int p = 0; p < 4; ++p) EXPECT_EQ(at::equal(late.parameters[p].value, before.parameters[p].value), p < 2) << p;
  waiting.step(0.01, 1.0);
  fresh.step(0.01, 1.0);
  for (int p = 0; p < 2; ++p) EXPECT_TRUE(at::equal(late.parameters[p].value, alone.parameters[p].value)) << "the first step of " << p;
}

TEST(AdamwCheckpoint, ResumeGivesTheSameBits) {
  for (const bool bits8 : {false, true})
    for (const bool spilled : {false, true}) {
      const Scratch scratch;
      AdamwConfig config = eight_bit(spilled ? scratch.path : fs::path{});
      config.eight_bit = bits8;
      Model a(ops::Backend::kernels), b(ops::Backend::kernels);
      Adamw whole(a.pointers(), config);
      run(a, whole, 1, 2);
      save_checkpoint(scratch.path, {2, {}}, whole);
      EXPECT_EQ(verify_checkpoint(checkpoint_path(scratch.path, 2)), "");
      int64_t size = 0;
      for (const auto& file : fs::directory_iterator(checkpoint_path(scratch.path, 2))) size += static_cast<int64_t>(file.file_size());
      EXPECT_LE(size, checkpoint_bytes(whole));
      EXPECT_GT(size, checkpoint_bytes(whole) - (1 << 17));
      run(a, whole, 3, 4);
      Adamw resumed(b.pointers(), config);
      load_checkpoint(scratch.path, 2, resumed);
      EXPECT_EQ(resumed.steps(), 2);
      run(b, resumed, 3, 4);
      expect_same(a, whole, b, resumed);
    }
}

TEST(AdamwCheckpoint, OfAnotherOptimizerIsRefused) {
  const Scratch scratch;
  Model model(ops::Backend::kernels);
  for (const bool bits8 : {false, true}) {
    AdamwConfig config = eight_bit();
    config.eight_bit = bits8;
    Adamw saved(model.pointers(), config);
    save_checkpoint(scratch.path, {1, {}}, saved);
    config.eight_bit = !bits8;
    Adamw other(model.pointers(), config);
    try {
      load_checkpoint(scratch.path, 1, other);
      FAIL() << "no error";
    } catch (const UserError& e) {
      EXPECT_NE(std::string(e.what()).find("--optim"), std::string::npos) << e.what();
    }
    load_checkpoint(scratch.path, 1, other, /*weights_only=*/true);
  }
}

TEST(AdamwCheckpoint, OfSomeParametersOnly) {
  const Scratch scratch;
  Model a(ops::Backend::kernels), b(ops::Backend::kernels);
  Adamw left({&a.parameters[1]}, eight_bit()), right({&b.parameters[1]}, eight_bit());
  run(a, left, 1, 1);
  save_checkpoint(scratch.path, {1, {}}, left);
  const std::vector<float> untouched = b.values("q");
  load_checkpoint(scratch.path, 1, right);
  EXPECT_EQ(b.values("wide"), a.values("wide"));
  EXPECT_EQ(b.values("q"), untouched);
}

}  // namespace
}  // namespace hone::train
