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

}  // namespace
}  // namespace hone::kernels
