// Quantised weights in panels: packing, and products that have the bits of the products with their dequantised panels.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "golden/oracle.h"
#include "hone/kernels/quant.h"
#include "kernels/linear_support.h"

namespace hone::kernels {
using namespace linear_support;
namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<uint8_t>;
constexpr QuantType kTypes[] = {QuantType::nf4, QuantType::fp4, QuantType::q4_0, QuantType::q4_1, QuantType::int8};

struct Quantised {  // one tensor (rows, K), flattened
  Quantised(const Floats& w, QuantType type) : codes(type == QuantType::int8 ? w.size() : (w.size() + 1) / 2), values(w.size()) {
    const auto count = static_cast<int64_t>(w.size());
    absmax.resize((count + quant_block(type) - 1) / quant_block(type));
    if (is_gguf(type)) {
      take_as_blocks(w, type);
    } else if (type == QuantType::int8) {
      quantize_int8(w.data(), count, codes.data(), absmax.data());
      for (size_t i = 0; i < w.size(); i++) values[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * absmax[i / 64];
    } else {
      quantize_4bit(w.data(), count, type, codes.data(), absmax.data());
      dequantize_4bit(codes.data(), absmax.data(), count, type, values.data());
    }
  }
  // Scales and minimums out of w, which no quantiser of ours makes: the values follow from them, a multiply and then an add.
  void take_as_blocks(const Floats& w, QuantType type) {
    if (has_minimums(type)) minimums.resize(absmax.size());
    for (size_t i = 0; i < absmax.size(); i++) absmax[i] = w[i * 7 % w.size()];
    for (size_t i = 0; i < minimums.size(); i++) minimums[i] = w[i * 5 % w.size()];
    for (size_t i = 0; i < w.size(); i++) {
      const auto code = static_cast<uint8_t>(static_cast<int>(std::fabs(w[i]) * 1000) % 16);
      codes[i / 2] |= static_cast<uint8_t>(i % 2 == 0 ? code << 4 : code);
      const float scaled = static_cast<float>(type == QuantType::q4_0 ? code - 8 : code) * absmax[i / 32];
      values[i] = minimums.empty() ? scaled : scaled + minimums[i / 32];
    }
  }
  Bytes codes;
  Floats absmax, minimums, values;
};

struct Weight {  // quantised panels of (N, K), zero past N, and 64-byte aligned
  Weight(int64_t N, int64_t K, QuantType type)
      : codes((quant_code_bytes(N, K, type) + 3) / 4),
        scales(quant_scale_floats(N, K, type)),
        minimums(quant_scale_floats(N, K, type)),
        panels{reinterpret_cast<uint8_t*>(codes.data), scales.data, type, has_minimums(type) ? minimums.data : nullptr} {}
  void place(const Quantised& part, int64_t row, int64_t rows, int64_t K) {
    pack_quant_panels(part.codes.data(), part.absmax.data(), row, rows, K, reinterpret_cast<uint8_t*>(codes.data), scales.data, panels.type);
    if (panels.minimums) pack_quant_minimums(part.minimums.data(), row, rows, K, panels.type, minimums.data);
  }
  Aligned codes, scales, minimums;
  QuantPanels panels;
};

/// The panels of a weight (N, K), and its dequantised values: the dense twin.
struct Twins {
  Twins(int64_t N, int64_t K, QuantType type, uint32_t seed)
      : quantised(random_floats(N * K, seed), type), weight(N, K, type), dense(packed(quantised.values, N, K)) {
    weight.place(quantised, 0, N, K);
  }
  Quantised quantised;
  Weight weight;
  Aligned dense;
};

TEST(QuantPanels, HoldWhatTheLayoutSays) {
  for (const Isa isa : available_isas())
    for (const QuantType type : kTypes)
      for (const int64_t N : {1, 5, 16, 17, 31, 32, 33, 100})
        for (const int64_t K : {1, 3, 32, 33, 64, 96, 130, 192}) {
          const Forced forced(isa);
          const Twins twins(N, K, type, 1);
          const int64_t g = std::gcd(K, is_gguf(type) ? int64_t{32} : int64_t{64});
          for (int64_t n = 0; n < panel_count(N) * kPanel; n++)
            for (int64_t k = 0; k < K; k++) {
              const bool bytes = type == QuantType::int8;
              const uint8_t byte = twins.weight.panels.codes[bytes ? (n / 32 * K + k) * 32 + n % 32 : (n / 32 * K + k) * 16 + n % 16];
              const int code = n % 32 < 16 ? byte & 15 : byte >> 4;
              const int64_t block = (n / 32 * (K / g) + k / g) * 32 + n % 32;
              const float unscaled = bytes ? static_cast<float>(static_cast<int8_t>(byte)) : quant_map(type)[code];
              const float scaled = unscaled * twins.weight.panels.scales[block];
              const float value = has_minimums(type) ? scaled + twins.weight.panels.minimums[block] : scaled;
              ASSERT_EQ(value, n < N ? twins.quantised.values[n * K + k] : 0.0f) << "N " << N << " K " << K << " at " << n << ", " << k;
            }
          Floats back(N * K, kNaN);
          unpack_quant_panels(twins.weight.panels, 0, N, K, back.data());
          ASSERT_TRUE(same_bits(back.data(), twins.quantised.values.data(), N * K)) << "N " << N << " K " << K;
        }
}

// Three tensors in one buffer, as q, k and v are: each has blocks of its own, and parts begin and end inside panels and bytes.
TEST(QuantPanels, PartsFromTheMiddleOfAPanel) {
  for (const Isa isa : available_isas())
    for (const QuantType type : kTypes)
      for (const int64_t K : {19, 96})
        for (const bool backwards : {false, true}) {
          const Forced forced(isa);
          const int64_t rows[] = {27, 41, 33}, first[] = {0, 27, 68}, N = 101;
          Weight weight(N, K, type);
          std::vector<Quantised> parts;
          for (int i = 0; i < 3; i++) parts.emplace_back(random_floats(rows[i] * K, 2 + i), type);
          for (int i = 0; i < 3; i++) {
            const int part = backwards ? 2 - i : i;
            weight.place(parts[part], first[part], rows[part], K);
          }
          for (int i = 0; i < 3; i++) {
            Floats back(rows[i] * K, kNaN);
            unpack_quant_panels(weight.panels, first[i], rows[i], K, back.data());
            ASSERT_TRUE(same_bits(back.data(), parts[i].values.data(), rows[i] * K)) << "K " << K << " part " << i;
          }
          // Placed again over the others' codes, a part replaces its own and no more.
          weight.place(parts[0], first[2] - 27, 27, K);
          Floats back(rows[2] * K, kNaN);
          unpack_quant_panels(weight.panels, first[2], rows[2], K, back.data());
          ASSERT_TRUE(same_bits(back.data(), parts[2].values.data(), rows[2] * K)) << "K " << K;
        }
}

constexpr int64_t kRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 23, 24, 25, 64, 300};
/// Every number of rows on one thread; on two (which may wait long for a busy machine) those of every path.
bool worth_it(int64_t M, int threads) { return threads == 1 || M == 1 || M == 5 || M == 14 || M == 64 || M == 300; }
constexpr int64_t kShapes[][2] = {{1, 1}, {5, 3}, {33, 96}, {100, 70}, {576, 64}, {40, 1300}, {96, 576}, {65, 127}, {31, 1536}};

TEST(QuantLinear, ForwardHasTheBitsOfTheDenseProduct) {
  for (const QuantType type : kTypes)
    for (const auto& [N, K] : kShapes) {
      const Twins twins(N, K, type, 7);
      const auto x = random_floats(300 * (K + 3), 8), bias = random_floats(N, 9), before = random_floats(300 * (N + 5), 10);
      for (const Isa isa : available_isas())
        for (const int count : {1, 2})
          for (const int64_t M : kRows)
            for (const bool go_on : {false, true}) {
              if (!worth_it(M, count)) continue;
              const Forced forced(isa);
              const Threads threads(count);
              const float* b = M % 2 == 1 ? bias.data() : nullptr;
              Floats want = before, got = before;
              linear_forward(x.data(), K + 3, M, K, twins.dense.data, N, b, want.data(), N + 5, go_on);
              linear_forward_quant(x.data(), K + 3, M, K, twins.weight.panels, N, b, got.data(), N + 5, go_on);
              ASSERT_TRUE(same_bits(got.data(), want.data(), 300 * (N + 5)))
                  << isa_name(isa) << " M " << M << " N " << N << " K " << K << " threads " << count << " go on " << go_on;
            }
    }
}

TEST(QuantLinear, BackwardInputHasTheBitsOfTheDenseProduct) {
  for (const QuantType type : kTypes)
    for (const auto& [N, K] : kShapes) {
      const Twins twins(N, K, type, 11);
      const auto dy = random_floats(300 * (N + 5), 12), before = random_floats(300 * (K + 3), 13);
      for (const Isa isa : available_isas())
        for (const int count : {1, 2})
          for (const int64_t M : kRows)
            for (const bool go_on : {false, true}) {
              if (!worth_it(M, count)) continue;
              const Forced forced(isa);
              const Threads threads(count);
              Floats want = before, got = before;
              linear_backward_input(dy.data(), N + 5, M, N, twins.dense.data, K, want.data(), K + 3, go_on);
              linear_backward_input_quant(dy.data(), N + 5, M, N, twins.weight.panels, K, got.data(), K + 3, go_on);
              ASSERT_TRUE(same_bits(got.data(), want.data(), 300 * (K + 3)))
                  << isa_name(isa) << " M " << M << " N " << N << " K " << K << " threads " << count << " go on " << go_on;
            }
    }
}

// Scales and products below the smallest normal number count as 0, as they do in a dense product.
// (Values of GGUF blocks are never denormal: their scales and minimums are halves.)
TEST(QuantLinear, DenormalsAreThoseOfTheDenseProduct) {
  const int64_t N = 40, K = 64, M = 3;
  for (const QuantType type : {QuantType::nf4, QuantType::fp4})
    for (const float scale : {1e-36f, 1e-37f, 1e-38f, 1e-40f})
      for (const Isa isa : available_isas()) {
        const Forced forced(isa);
        Floats w = random_floats(N * K, 14);
        for (float& value : w) value *= scale;
        const Quantised quantised(w, type);
        Weight weight(N, K, type);
        weight.place(quantised, 0, N, K);
        const Aligned dense = packed(quantised.values, N, K);
        auto x = random_floats(M * K, 15);
        for (float& value : x) value *= 1e20f;
        Floats want(M * N), got(M * N);
        linear_forward(x.data(), K, M, K, dense.data, N, nullptr, want.data(), N);
        linear_forward_quant(x.data(), K, M, K, weight.panels, N, nullptr, got.data(), N);
        ASSERT_TRUE(same_bits(got.data(), want.data(), M * N)) << isa_name(isa) << " " << scale;
      }
}

TEST(QuantLinear, NoRowsAndNoInputs) {
  const Weight weight(3, 64, QuantType::nf4);
  Floats y{7, 7, 7};
  const Floats bias{1, 2, 3};
  linear_forward_quant(nullptr, 0, 0, 64, weight.panels, 3, bias.data(), y.data(), 3);
  EXPECT_EQ(y, (Floats{7, 7, 7}));
  linear_backward_input_quant(nullptr, 3, 0, 3, weight.panels, 64, y.data(), 64);
  EXPECT_EQ(y, (Floats{7, 7, 7}));
}

// bitsandbytes' own product and gradient. Its sums run in another order: a sum of n products is off by at most n * 2^-24 * sum |a b| either way.
TEST(QuantLinear, AgreesWithBitsandbytes) {
  const auto oracle = golden::read_oracle(golden::golden_path("bnb/product.safetensors"));
  for (const QuantType type : {QuantType::nf4, QuantType::fp4}) {
    const std::string name = type == QuantType::nf4 ? "nf4." : "fp4.";
    const auto of = [&](const char* key) {
      const auto& values = oracle.at(name + key).values;
      return Floats(values.begin(), values.end());
    };
    const int64_t M = oracle.at(name + "x").shape[0], N = oracle.at(name + "w").shape[0], K = oracle.at(name + "w").shape[1];
    Quantised quantised(of("w"), type);
    const auto blocks = static_cast<int64_t>(quantised.absmax.size());
    Bytes nested(quantised.absmax.size());
    Floats nested_absmax((blocks + 255) / 256);
    float offset = kNaN;
    quantize_nested(quantised.absmax.data(), blocks, nested.data(), nested_absmax.data(), &offset);
    dequantize_nested(nested.data(), nested_absmax.data(), offset, blocks, quantised.absmax.data());
    Weight weight(N, K, type);
    weight.place(quantised, 0, N, K);
    const Floats wq = of("wq"), x = of("x"), dy = of("dy"), want_y = of("y"), want_dx = of("dx");
    Floats w(N * K), y(M * N), dx(M * K);
    unpack_quant_panels(weight.panels, 0, N, K, w.data());
    // The offsets may differ by a rounding of the mean; it moves the absmax and the value by a rounding each.
    for (int64_t i = 0; i < N * K; i++) ASSERT_LE(std::fabs(w[i] - wq[i]), 0x3p-23f * std::fabs(wq[i])) << i;
    linear_forward_quant(x.data(), K, M, K, weight.panels, N, nullptr, y.data(), N);
    linear_backward_input_quant(dy.data(), N, M, N, weight.panels, K, dx.data(), K);
    for (int64_t m = 0; m < M; m++) {
      for (int64_t n = 0; n < N; n++) {
        double magnitude = 0;
        for (int64_t k = 0; k < K; k++) magnitude += std::fabs(double(x[m * K + k]) * w[n * K + k]);
        ASSERT_LE(std::fabs(y[m * N + n] - want_y[m * N + n]), 2 * (K + 4) * 0x1p-24 * magnitude) << m << ", " << n;
      }
      for (int64_t k = 0; k < K; k++) {
        double magnitude = 0;
        for (int64_t n = 0; n < N; n++) magnitude += std::fabs(double(dy[m * N + n]) * w[n * K + k]);
        ASSERT_LE(std::fabs(dx[m * K + k] - want_dx[m * K + k]), 2 * (N + 4) * 0x1p-24 * magnitude) << m << ", " << k;
      }
    }
  }
}

}  // namespace
}  // namespace hone::kernels
