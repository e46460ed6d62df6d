// The reference ops are the meaning of every kernel: their gradients against central differences in float64, and the kernel ops against
// them in float32, on a batch with a shared prompt, odd sizes and a bias.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "hone/ops/kernel_ops.h"
#include "hone/ops/ops.h"
#include "hone/ops/reference.h"

namespace hone::ops {
namespace gradcheck_test {

constexpr double kStep = 1e-6;
// Central differences in float64 err by about step^2 and eps/step: 1e-10 relative to values near 1; a wrong gradient is off by percents.
constexpr double kTolerance = 1e-6;
// float32 kernels against float32 ATen: sums of at most 100 terms.
constexpr double kKernelTolerance = 2e-5;

using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// Weighted sum of an op's output, so that every output element has a cotangent of its own.
at::Tensor probe(const at::Tensor& y) { return (y * at::arange(1, y.numel() + 1, y.options()).view(y.sizes()).mul(0.37).sin()).sum(); }

void gradcheck(const Function& f, std::vector<at::Tensor> inputs) {
  for (at::Tensor& x : inputs) x = x.to(at::kDouble).detach().clone().requires_grad_(true);
  probe(f(inputs)).backward();
  for (at::Tensor& x : inputs) {
    ASSERT_TRUE(x.grad().defined());
    at::NoGradGuard no_grad;
    at::Tensor flat = x.view({-1}), grad = x.grad().contiguous().view({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double kept = flat[i].item<double>();
      flat[i] = kept + kStep;
      const double above = probe(f(inputs)).item<double>();
      flat[i] = kept - kStep;
      const double below = probe(f(inputs)).item<double>();
      flat[i] = kept;
      const double wanted = (above - below) / (2 * kStep), found = grad[i].item<double>();
      ASSERT_TRUE(std::abs(found - wanted) <= kTolerance * std::max(1.0, std::abs(wanted))) << i << ": " << found << " against " << wanted;
    }
  }
}

at::Tensor noise(at::IntArrayRef shape, int seed) {
  const int64_t count = c10::multiply_integers(shape);
  return (at::arange(count, at::kDouble) * 12.9898 + seed * 78.233).sin().mul(43758.5453).frac().view(shape);
}

Parameter reference_parameter(const at::Tensor& value) {
  Parameter p;
  p.parts = {{"test", 0, value.size(0)}};
  p.rows = value.size(0);
  p.cols = value.dim() == 2 ? value.size(1) : 0;
  p.backend = Backend::reference;
  p.value = value;
  return p;
}

Parameter panels(const at::Tensor& value) {
  Parameter p = make_parameter({{"test", 0, value.size(0)}}, value.dim() == 2 ? value.size(1) : 0, Backend::kernels, at::TensorOptions(at::kFloat));
  const at::Tensor f = value.detach().to(at::kFloat).contiguous();
  set_part(p, p.parts[0], f.const_data_ptr<float>());
  enable_gradient(p);
  return p;
}

// A prompt of 3, two children of 2 and 3 tokens, and a document of 2.
batch::PackedBatch tree() {
  batch::PackedBatch b;
  b.token_ids = {1, 2, 3, 4, 5, 6, 0, 1, 2, 3};
  b.positions = {0, 1, 2, 3, 4, 3, 4, 5, 0, 1};
  b.segments = {{0, 3, -1}, {3, 5, 0}, {5, 8, 0}, {8, 10, -1}};
  b.predict_from = {2, 3, 2, 5, 6, 8};
  b.targets = {4, 5, 6, 0, 1, 3};
  b.sequence_ids = {0, 0, 1, 1, 1, 2};
  b.weights = {1, 1, 1, 0.5f, 1, 1};
  b.score_at = {4, 7, 9};
  b.num_sequences = 3;
  return b;
}

AttentionConfig attention(at::ScalarType type) {
  AttentionConfig c{4, 2, 6, {}, {}};
  at::Tensor angle = at::arange(8, at::kDouble).unsqueeze(1) * at::tensor({1.0, 0.31, 0.07}, at::kDouble);
  c.cos = angle.cos().to(type);
  c.sin = angle.sin().to(type);
  return c;
}

struct OpCase {
  const char* name;
  std::vector<at::Tensor> inputs;  // float64
  Function reference, kernels;     // kernels: the first input only has a gradient through autograd
};

std::vector<OpCase> cases() {
  static const BatchTensors batch = make_batch_tensors(tree(), at::kCPU);
  static const AttentionConfig in_double = attention(at::kDouble), in_float = attention(at::kFloat);
  // Parameters must outlive the backward; the tests are few and small.
  const auto keep = [](Parameter p) -> Parameter& { return *new Parameter(std::move(p)); };
  std::vector<OpCase> all;
  all.push_back({"linear",
                 {noise({5, 7}, 1), noise({9, 7}, 2), noise({9}, 3)},
                 [=](const auto& x) {
                   Parameter w = reference_parameter(x[1]), b = reference_parameter(x[2]);
                   return reference::linear(x[0], w, &b);
                 },
                 [=](const auto& x) { return fast::linear(x[0], keep(panels(x[1])), &keep(panels(x[2]))); }});
  all.push_back({"rms_norm",
                 {noise({4, 9}, 4), noise({9}, 5)},
                 [=](const auto& x) {
                   Parameter w = reference_parameter(x[1]);
                   return reference::rms_norm(x[0], w, 1e-5);
                 },
                 [=](const auto& x) { return fast::rms_norm(x[0], keep(panels(x[1])), 1e-5); }});
  all.push_back(
      {"swiglu", {noise({4, 10}, 6)}, [](const auto& x) { return reference::swiglu(x[0]); }, [](const auto& x) { return fast::swiglu(x[0]); }});
  all.push_back({"tree_attention",
                 {noise({10, 48}, 7)},
                 [](const auto& x) { return reference::tree_attention(x[0], in_double, batch); },
                 [](const auto& x) { return fast::tree_attention(x[0].clone(), in_float, batch); }});
  static LogprobOptions options;
  options.temperature = 0.7;
  const auto both = [](const TokenLogprobs& out) { return at::stack({out.logprobs, out.entropy}); };
  all.push_back({"token_logprobs",
                 {noise({10, 5}, 8), noise({7, 5}, 9)},
                 [=](const auto& x) { return both(reference::token_logprobs(x[0], keep(reference_parameter(x[1])), batch, options)); },
                 [=](const auto& x) { return both(fast::token_logprobs(x[0], keep(panels(x[1])), batch, options)); }});
  all.push_back({"sequence_sum",
                 {noise({6}, 10)},
                 [](const auto& x) { return sequence_sum(x[0], batch.sequence_ids, 3); },
                 [](const auto& x) { return sequence_sum(x[0], batch.sequence_ids, 3); }});
  return all;
}

TEST(Gradcheck, ReferenceOpsAgainstCentralDifferences) {
  for (const OpCase& c : cases()) {
    SCOPED_TRACE(c.name);
    gradcheck(c.reference, c.inputs);
  }
}

TEST(Gradcheck, KernelOpsAgainstReference) {
  for (const OpCase& c : cases()) {
    SCOPED_TRACE(c.name);
    std::vector<at::Tensor> exact, single;
    for (const at::Tensor& x : c.inputs) {
      exact.push_back(x.detach().clone().requires_grad_(true));
      single.push_back(x.to(at::kFloat).detach().requires_grad_(true));
    }
    const at::Tensor a = c.reference(exact), b = c.kernels(single);
    EXPECT_TRUE(at::allclose(b.to(at::kDouble), a, kKernelTolerance, kKernelTolerance));
    probe(a).backward();
    (b.to(at::kDouble) * at::arange(1, b.numel() + 1, at::kDouble).view(b.sizes()).mul(0.37).sin()).sum().backward();
    EXPECT_TRUE(at::allclose(single[0].grad().to(at::kDouble), exact[0].grad(), kKernelTolerance, kKernelTolerance));
  }
}

// The check of known cotangents must be able to fail.
TEST(TokenLogprobs, AnotherCotangentThanTheOneAnnouncedIsADefect) {
  const BatchTensors batch = make_batch_tensors(tree(), at::kCPU);
  Parameter head = make_parameter({{"head", 0, 7}}, 5, Backend::kernels, at::TensorOptions(at::kFloat));
  enable_gradient(head);
  LogprobOptions options;
  options.known_cotangent = at::full({6}, -0.5f);
  const auto run = [&](float cotangent) {
    at::Tensor hidden = noise({10, 5}, 1).to(at::kFloat).requires_grad_(true);
    const TokenLogprobs out = fast::token_logprobs(hidden, head, batch, options);
    out.logprobs.backward(at::full({6}, cotangent));
  };
  EXPECT_NO_THROW(run(-0.5f));
  EXPECT_ANY_THROW(run(-0.25f));
}

// More predictions than a chunk of logits holds: the first chunk is kept for the backward, the others are made again. The gradients have the
// bits of those made in the forward, where every chunk is used at once.
TEST(TokenLogprobs, GradientsMadeInTheForwardAndInTheBackwardHaveTheSameBits) {
  for (const int64_t count : {int64_t{1}, kLogprobChunk - 1, kLogprobChunk, kLogprobChunk + 1, 3 * kLogprobChunk + 5}) {
    batch::PackedBatch packed;
    std::vector<int32_t> ids(static_cast<size_t>(count) + 1);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 5 % 37);
    batch::append_document(packed, ids.data(), nullptr, count + 1);
    const BatchTensors batch = make_batch_tensors(packed, at::kCPU);
    const at::Tensor weight = noise({37, 9}, 21), x = noise({count + 1, 9}, 22).to(at::kFloat), cotangent = noise({count}, 23).to(at::kFloat);
    std::vector<at::Tensor> found;
    for (const bool early : {true, false}) {
      Parameter head = panels(weight);
      LogprobOptions options;
      if (early) options.known_cotangent = cotangent;
      at::Tensor hidden = x.clone().requires_grad_(true);
      fast::token_logprobs(hidden, head, batch, options).logprobs.backward(cotangent);
      found.push_back(hidden.grad());
      found.push_back(head.grad);
    }
    EXPECT_TRUE(at::equal(found[0], found[2])) << count;
    EXPECT_TRUE(at::equal(found[1], found[3])) << count;
    EXPECT_GT(found[1].abs().max().item<float>(), 0.0f) << count;
  }
}

}  // namespace gradcheck_test
}  // namespace hone::ops
