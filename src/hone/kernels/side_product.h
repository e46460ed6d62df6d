#pragma once
#include <cstdint>

namespace hone::kernels {

/// A product of few steps that goes on from the chains of another, for some of its columns: y[m][begin + j] = chain over k = 0..K-1 of
/// x[m][k] * w[j][k] from the value that y has there. Beside linear_backward_input w is given the other way round, w[k][j].
struct SideProduct {
  const float* x = nullptr;  // (M, K), row stride ldx
  int64_t ldx = 0, K = 0;
  const float* panels = nullptr;  // of the weight (columns, K); beside linear_backward_input of the weight (K, columns)
  int64_t begin = 0, columns = 0;
};

/// Their columns do not overlap. The bits are those of separate calls with go_on, but y is still in a near cache.
struct SideProducts {
  const SideProduct* data = nullptr;
  int64_t count = 0;
};

}  // namespace hone::kernels
