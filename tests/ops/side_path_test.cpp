// The fused linear with a side path on the kernels against its meaning in plain ATen: outputs and every gradient, for each way to make the
// input, each kind of adapter, dense and 4-bit weights.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "hone/kernels/kernels.h"
#include "hone/ops/adapter_set.h"
#include "hone/ops/dropout.h"
#include "hone/ops/ops.h"

namespace hone::ops {
namespace side_path_test {

// float32 chains of at most 200 terms against ATen's float32 sums.
constexpr double kTolerance = 2e-5;
constexpr int64_t kTokens = 11, kCols = 48, kRows = 70;  // two panels and a rest; a run of 16 columns shares an absmax

at::Tensor noise(at::IntArrayRef shape, int seed, double scale = 1.0) {
  const int64_t count = c10::multiply_integers(shape);
  return ((at::arange(count, at::kDouble) * 12.9898 + seed * 78.233).sin().mul(43758.5453).frac() * scale).to(at::kFloat).view(shape).contiguous();
}

enum class Input { plain, norm, swiglu };
struct SideCase {
  Input input = Input::plain;
  bool dora = false, four_bit = false, bias = false, all_rows = true;
  double dropout = 0;
};

// One linear of rows 40 + 30, with side paths of rank 3 and 5 (or only on the second part).
struct World {
  Parameter weight, bias, norm;
  AdapterSet set;
  SidePath* path = nullptr;

  World(const SideCase& c, Backend backend) {
    const auto floats = at::TensorOptions(at::kFloat);
    const std::vector<Part> parts{{"first", 0, 40}, {"second", 40, 30}};
    const at::Tensor w = noise({kRows, kCols}, 1);
    if (c.four_bit) {
      weight = make_quantised_parameter(parts, kCols, kernels::QuantType::nf4, backend, floats);
      for (const Part& part : weight.parts) {
        const int64_t count = part.rows * kCols;
        std::vector<uint8_t> codes((count + 1) / 2);
        std::vector<float> absmax((count + 63) / 64);
        kernels::quantize_4bit(w.const_data_ptr<float>() + part.row_begin * kCols, count, weight.quant, codes.data(), absmax.data());
        set_quantised_part(weight, part, codes.data(), absmax.data());
      }
    } else {
      weight = filled(parts, kCols, backend, w);
    }
    weight.trainable = false;
    bias = filled({{"bias", 0, kRows}}, 0, backend, noise({kRows}, 2));
    bias.trainable = false;
    norm = filled({{"norm", 0, kCols}}, 0, backend, noise({kCols}, 3));
    norm.trainable = false;
    auto side = std::make_unique<SidePath>();
    path = side.get();
    path->index = 7;
    std::vector<Part> a_parts;
    int64_t rows = 0;
    for (const auto& [part, r] : {std::pair{parts[0], 3}, std::pair{parts[1], 5}}) {
      if (!c.all_rows && part.row_begin == 0) continue;
      SideTarget& t = path->targets.emplace_back();
      t.row_begin = part.row_begin, t.rows = part.rows, t.a_begin = rows, t.r = r, t.scaling = 0.5f + static_cast<float>(r) / 8;
      t.b = filled({{part.name + ".b", 0, part.rows}}, r, backend, noise({part.rows, r}, 4 + r));
      enable_gradient(t.b);
      if (c.dora) {
        t.magnitude = filled({{part.name + ".m", 0, part.rows}}, 0, backend, noise({part.rows}, 9 + r).abs() + 1);
        enable_gradient(t.magnitude);
      }
      a_parts.push_back({part.name + ".a", rows, r});
      rows += r;
    }
    path->a = filled(a_parts, kCols, backend, noise({rows, kCols}, 5));
    enable_gradient(path->a);
    set.paths.emplace(&weight, std::move(side));
    set.anchor = at::zeros({}).requires_grad_(true);
    set.dropout.p = c.dropout;
    set.dropout.training = true;
    set.dropout.seed = 3;
    for (uint64_t t = 0; t < kTokens; ++t) set.dropout.token_keys.push_back(1000 + t * t);
  }

  static Parameter filled(std::vector<Part> parts, int64_t cols, Backend backend, const at::Tensor& values) {
    Parameter p = make_parameter(std::move(parts), cols, backend, at::TensorOptions(at::kFloat));
    for (const Part& part : p.parts) set_part(p, part, values.const_data_ptr<float>() + part.row_begin * std::max<int64_t>(cols, 1));
    return p;
  }

  // y, dx, then the gradients of A, B and the magnitudes, of a weighted sum of the outputs.
  std::vector<at::Tensor> run(const SideCase& c) {
    at::Tensor x = noise({kTokens, c.input == Input::swiglu ? 2 * kCols : kCols}, 6).requires_grad_(true);
    LinearInput input;
    if (c.input == Input::norm) input = {&norm, 1e-5, false};
    if (c.input == Input::swiglu) input.swiglu = true;
    const at::Tensor y = linear(x, weight, c.bias ? &bias : nullptr, &set, input);
    (y * noise(y.sizes(), 8)).sum().backward();
    std::vector<at::Tensor> all{y.detach(), x.grad(), gradient(path->a)};
    for (const SideTarget& t : path->targets) {
      all.push_back(gradient(t.b));
      if (t.magnitude.defined()) all.push_back(gradient(t.magnitude));
    }
    return all;
  }

  static at::Tensor gradient(const Parameter& p) {
    at::Tensor g = at::empty({p.rows, std::max<int64_t>(p.cols, 1)});
    get_part_gradient(p, {"", 0, p.rows}, g.mutable_data_ptr<float>());
    return g;
  }
};

double error(const at::Tensor& a, const at::Tensor& b) {
  const double e = ((a - b).norm() / b.norm()).item<double>();
  return std::isfinite(e) ? e : INFINITY;
}

TEST(SidePath, KernelsAgreeWithTheirMeaning) {
  for (const Input input : {Input::plain, Input::norm, Input::swiglu})
    for (const SideCase& kind : {SideCase{}, SideCase{.dora = true}, SideCase{.four_bit = true}, SideCase{.bias = true}, SideCase{.all_rows = false},
                                 SideCase{.dropout = 0.3}, SideCase{.dora = true, .four_bit = true, .bias = true, .all_rows = false}}) {
      SideCase c = kind;
      c.input = input;
      SCOPED_TRACE(testing::Message() << "input " << static_cast<int>(input) << " dora " << c.dora << " 4-bit " << c.four_bit << " bias " << c.bias
                                      << " all rows " << c.all_rows << " dropout " << c.dropout);
      World fast(c, Backend::kernels), meaning(c, Backend::reference);
      const auto found = fast.run(c), wanted = meaning.run(c);
      ASSERT_EQ(found.size(), wanted.size());
      for (size_t i = 0; i < found.size(); ++i) EXPECT_LE(error(found[i], wanted[i]), kTolerance) << "output " << i;
    }
}

TEST(SidePath, MergedRowsAreWhatTheForwardMultipliesBy) {
  for (const bool dora : {false, true}) {
    const SideCase c{.dora = dora};
    World world(c, Backend::kernels);
    const at::Tensor x = noise({kTokens, kCols}, 6);
    at::NoGradGuard no_grad;
    const at::Tensor y = linear(x, world.weight, nullptr, &world.set);
    at::Tensor merged = at::empty({kRows, kCols});
    for (const SideTarget& t : world.path->targets)
      for (int64_t begin = 0; begin < t.rows; begin += 7)
        merged_rows(world.weight, *world.path, t, begin, std::min<int64_t>(7, t.rows - begin),
                    merged.mutable_data_ptr<float>() + (t.row_begin + begin) * kCols);
    EXPECT_LE(error(at::matmul(x, merged.t()), y), kTolerance) << "dora " << dora;
  }
}

TEST(SidePath, DropoutKeepsItsShareAndDependsOnTheTokenOnly) {
  SideDropout dropout{0.25, true, 11, 3, {}};
  for (uint64_t t = 0; t < 64; ++t) dropout.token_keys.push_back(t << 32 | 5);
  const int64_t K = 1001;  // not a multiple of the eight columns of one draw
  const at::Tensor ones = at::ones({64, K});
  at::Tensor y = at::empty_like(ones);
  apply_dropout(dropout, 2, 1, ones.const_data_ptr<float>(), 64, K, y.mutable_data_ptr<float>());
  const double kept = (y != 0).to(at::kDouble).mean().item<double>();
  EXPECT_NEAR(kept, 0.75, 0.01);  // 64,064 draws: deviation 0.0017
  EXPECT_FLOAT_EQ(y.max().item<float>(), 1.0f / 0.75f);
  // The same tokens in another order and number give the same rows.
  SideDropout turned = dropout;
  turned.token_keys = {dropout.token_keys[9], dropout.token_keys[4]};
  at::Tensor z = at::empty({2, K});
  apply_dropout(turned, 2, 1, ones.const_data_ptr<float>(), 2, K, z.mutable_data_ptr<float>());
  EXPECT_TRUE(at::equal(z[0], y[9]));
  EXPECT_TRUE(at::equal(z[1], y[4]));
  // Another step, linear or target has other noise.
  for (const auto& [step, linear, target] : {std::tuple{4u, 2u, 1u}, std::tuple{3u, 3u, 1u}, std::tuple{3u, 2u, 0u}}) {
    turned.step = step;
    at::Tensor other = at::empty({2, K});
    apply_dropout(turned, linear, target, ones.const_data_ptr<float>(), 2, K, other.mutable_data_ptr<float>());
    EXPECT_LT((other == z).to(at::kDouble).mean().item<double>(), 0.7);  // independent masks agree at 0.625
  }
}

}  // namespace side_path_test
}  // namespace hone::ops
