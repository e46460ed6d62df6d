#pragma once
// Random inputs, comparisons and run conditions (threads, instruction set) for the kernel tests.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "hone/base/rng.h"
#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::support {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// About normal: the sum of four uniforms, standard deviation `scale`.
inline Floats random_floats(int64_t count, uint32_t stream, double scale = 1.0) {
  Floats out(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) {
    const auto w = philox4x32(stream, {static_cast<uint32_t>(i), 0, 0, 0});
    const double sum = (static_cast<double>(w[0]) + w[1] + w[2] + w[3]) * 0x1p-32 - 2.0;
    out[static_cast<size_t>(i)] = static_cast<float>(sum * 1.7320508 * scale);
  }
  return out;
}

/// Norm of the difference over the norm of `want`; NaN anywhere gives NaN (which fails EXPECT_LT).
template <class Want>
double relative_error(const Floats& got, const Want& want) {
  EXPECT_EQ(got.size(), want.size());
  double difference = 0, norm = 1e-300;
  for (size_t i = 0; i < want.size(); i++) {
    difference += (got[i] - static_cast<double>(want[i])) * (got[i] - static_cast<double>(want[i]));
    norm += static_cast<double>(want[i]) * static_cast<double>(want[i]);
  }
  return std::sqrt(difference / norm);
}

/// Index of the first element that differs in any bit, -1 for none.
template <class T>
int64_t first_difference(const T* a, const T* b, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (std::memcmp(a + i, b + i, sizeof(T)) != 0) return i;
  return -1;
}
template <class T>
int64_t first_difference(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() != b.size() ? -2 : first_difference(a.data(), b.data(), static_cast<int64_t>(a.size()));
}

/// Restores threads and instruction set at the end of a test.
struct Restore {
  Isa isa = active_isa();
  ~Restore() {
    force_isa(isa);
    set_threads(0);
  }
};

/// Runs `compute` on 1, 2 and 3 threads and both instruction sets and expects the same bits each time. Skips (after the thread check)
/// with a reason where this machine lacks AVX-512.
inline void expect_same_bits_everywhere(const std::function<std::vector<Floats>()>& compute) {
  const Restore restore;
  set_threads(1);
  const std::vector<Floats> want = compute();
  const auto compare = [&](const char* what) {
    const std::vector<Floats> got = compute();
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); i++) EXPECT_EQ(first_difference(got[i], want[i]), -1) << what << ", output " << i;
  };
  set_threads(2);
  compare("2 threads");
  set_threads(3);
  compare("3 threads");
  if (!isa_available(Isa::avx512)) GTEST_SKIP() << "this machine has no AVX-512: the two instruction sets were not compared";
  force_isa(active_isa() == Isa::avx512 ? Isa::avx2 : Isa::avx512);
  compare("the other instruction set");
}

}  // namespace hone::kernels::support
