// Chains that go on from what is stored: the product over K in several calls has the bits of one.
#include <gtest/gtest.h>

#include "kernels/linear_support.h"

namespace hone::kernels {
using namespace linear_support;
namespace {

struct Case {
  int64_t M, N, K, cut;
};
constexpr Case kCases[] = {{1, 100, 70, 1},      {3, 33, 576, 320}, {14, 32, 40, 39}, {70, 576, 100, 64},
                           {300, 45, 1300, 700}, {2, 5, 9, 0},      {2, 5, 9, 9}};

std::vector<float> columns_of(const std::vector<float>& w, int64_t rows, int64_t columns, int64_t begin, int64_t end) {
  std::vector<float> part;
  for (int64_t r = 0; r < rows; r++) part.insert(part.end(), w.begin() + r * columns + begin, w.begin() + r * columns + end);
  return part;
}

TEST(GoOn, ForwardOverColumnsInTwoCallsIsOneCall) {
  for (const Isa isa : available_isas())
    for (const int count : {1, 2})
      for (const auto& [M, N, K, cut] : kCases) {
        const Forced forced(isa);
        const Threads threads(count);
        const int64_t ldy = N + 3;
        const auto x = random_floats(M * K, 1), w = random_floats(N * K, 2), bias = random_floats(N, 3);
        std::vector<float> one(M * ldy, kUntouched), two(M * ldy, kUntouched);
        linear_forward(x.data(), K, M, K, packed(w, N, K).data, N, bias.data(), one.data(), ldy);
        const Aligned left = packed(columns_of(w, N, K, 0, cut), N, cut), right = packed(columns_of(w, N, K, cut, K), N, K - cut);
        linear_forward(x.data(), K, M, cut, left.data, N, nullptr, two.data(), ldy);
        linear_forward(x.data() + cut, K, M, K - cut, right.data, N, bias.data(), two.data(), ldy, true);
        ASSERT_TRUE(same_bits(one.data(), two.data(), M * ldy)) << isa_name(isa) << " M " << M << " N " << N << " K " << K << " cut " << cut;
      }
}

TEST(GoOn, BackwardInputOverRowsOfTheWeightInTwoCallsIsOneCall) {
  for (const Isa isa : available_isas())
    for (const int count : {1, 2})
      for (const auto& [M, K, N, cut] : kCases) {
        const Forced forced(isa);
        const Threads threads(count);
        const int64_t lddx = K + 3;
        const auto dy = random_floats(M * N, 4), w = random_floats(N * K, 5);
        std::vector<float> one(M * lddx, kUntouched), two(M * lddx, kUntouched);
        linear_backward_input(dy.data(), N, M, N, packed(w, N, K).data, K, one.data(), lddx);
        const Aligned upper = packed(std::vector<float>(w.begin(), w.begin() + cut * K), cut, K);
        const Aligned lower = packed(std::vector<float>(w.begin() + cut * K, w.end()), N - cut, K);
        linear_backward_input(dy.data(), N, M, cut, upper.data, K, two.data(), lddx);
        linear_backward_input(dy.data() + cut, N, M, N - cut, lower.data, K, two.data(), lddx, true);
        ASSERT_TRUE(same_bits(one.data(), two.data(), M * lddx)) << isa_name(isa) << " M " << M << " N " << N << " K " << K << " cut " << cut;
      }
}

// Low-rank products beside a main one: aligned with its panels or not, narrower than a panel, of more steps than a tile, several blocks wide.
struct Beside {
  int64_t begin, columns, r;
};
struct SideCase {
  int64_t M, N, K;
  std::vector<Beside> sides;
};
const SideCase kSideCases[] = {
    {1, 96, 40, {{0, 96, 16}}},
    {14, 100, 70, {{0, 50, 4}, {50, 30, 3}, {96, 4, 9}}},
    {70, 960, 576, {{0, 576, 16}, {576, 192, 16}, {768, 192, 16}}},
    {300, 3072, 64, {{0, 1536, 8}, {1536, 1536, 8}}},
    {33, 64, 1300, {{32, 32, 700}, {0, 32, 576}}},
    {20, 320, 8, {{0, 32, 1}, {32, 32, 2}, {64, 32, 3}, {96, 32, 4}, {128, 32, 5}, {160, 32, 6}, {192, 32, 7}, {224, 32, 8}, {256, 32, 9}}}};

TEST(SideProducts, ForwardHasTheBitsOfSeparateCalls) {
  for (const Isa isa : available_isas())
    for (const int count : {1, 2})
      for (const auto& [M, N, K, beside] : kSideCases)
        for (const bool go_on : {false, true}) {
          const Forced forced(isa);
          const Threads threads(count);
          const auto x = random_floats(M * K, 1), w = random_floats(N * K, 2), before = random_floats(M * (N + 3), 3);
          std::vector<float> one = before, apart = before;
          std::vector<std::vector<float>> h;
          std::vector<Aligned> panels;
          std::vector<SideProduct> sides;
          for (const auto& [begin, columns, r] : beside) {
            h.push_back(random_floats(M * (r + 5), 4 + begin));
            panels.push_back(packed(random_floats(columns * r, 5 + begin), columns, r));
          }
          for (size_t i = 0; i < beside.size(); i++)
            sides.push_back({h[i].data(), beside[i].r + 5, beside[i].r, panels[i].data, beside[i].begin, beside[i].columns});
          const Aligned main = packed(w, N, K);
          linear_forward(x.data(), K, M, K, main.data, N, nullptr, apart.data(), N + 3, go_on);
          for (const SideProduct& s : sides) linear_forward(s.x, s.ldx, M, s.K, s.panels, s.columns, nullptr, apart.data() + s.begin, N + 3, true);
          linear_forward(x.data(), K, M, K, main.data, N, nullptr, one.data(), N + 3, go_on, {sides.data(), static_cast<int64_t>(sides.size())});
          ASSERT_TRUE(same_bits(one.data(), apart.data(), M * (N + 3)))
              << isa_name(isa) << " M " << M << " N " << N << " K " << K << " threads " << count;
        }
}

TEST(SideProducts, BackwardInputHasTheBitsOfSeparateCalls) {
  for (const Isa isa : available_isas())
    for (const int count : {1, 2})
      for (const auto& [M, K, N, beside] : kSideCases) {
        const Forced forced(isa);
        const Threads threads(count);
        const auto dy = random_floats(M * N, 1), w = random_floats(N * K, 2);
        std::vector<float> one(M * (K + 3), kUntouched), apart = one;
        std::vector<std::vector<float>> dh;
        std::vector<Aligned> panels;
        std::vector<SideProduct> sides;
        for (const auto& [begin, columns, r] : beside) {
          dh.push_back(random_floats(M * (r + 5), 4 + begin));
          panels.push_back(packed(random_floats(columns * r, 5 + begin), r, columns));
        }
        for (size_t i = 0; i < beside.size(); i++)
          sides.push_back({dh[i].data(), beside[i].r + 5, beside[i].r, panels[i].data, beside[i].begin, beside[i].columns});
        const Aligned main = packed(w, N, K);
        linear_backward_input(dy.data(), N, M, N, main.data, K, apart.data(), K + 3);
        for (const SideProduct& s : sides) linear_backward_input(s.x, s.ldx, M, s.K, s.panels, s.columns, apart.data() + s.begin, K + 3, true);
        linear_backward_input(dy.data(), N, M, N, main.data, K, one.data(), K + 3, false, {sides.data(), static_cast<int64_t>(sides.size())});
        ASSERT_TRUE(same_bits(one.data(), apart.data(), M * (K + 3)))
            << isa_name(isa) << " M " << M << " N " << N << " K " << K << " threads " << count;
      }
}

}  // namespace
}  // namespace hone::kernels
