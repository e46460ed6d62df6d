#pragma once
// Aligned buffers, random inputs and run conditions (threads, instruction set) for the tests of the products.
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "hone/base/threads.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels::linear_support {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kUntouched = -12345.0f;

struct Aligned {  // 64-byte aligned floats, as panels must be
  explicit Aligned(int64_t count, float value = 0.0f) : size(count), storage(static_cast<size_t>(count) + 16, value) {
    const auto address = reinterpret_cast<uintptr_t>(storage.data());
    data = storage.data() + (64 - address % 64) % 64 / sizeof(float);
  }
  int64_t size;
  std::vector<float> storage;
  float* data;
};

inline std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

inline Aligned packed(const std::vector<float>& w, int64_t N, int64_t K) {
  Aligned panels(panel_floats(N, K));
  pack_panels(w.data(), 0, N, K, panels.data);
  return panels;
}

inline std::vector<Isa> available_isas() {
  std::vector<Isa> isas{Isa::avx2};
  if (isa_available(Isa::avx512)) isas.push_back(Isa::avx512);
  return isas;
}

struct Forced {  // an instruction set for the life of the object
  explicit Forced(Isa isa) : before(active_isa()) { force_isa(isa); }
  ~Forced() { force_isa(before); }
  Isa before;
};

struct Threads {
  explicit Threads(int count) : before(threads()) { set_threads(count); }
  ~Threads() { set_threads(before); }
  int before;
};

inline bool same_bits(const float* a, const float* b, int64_t count) { return std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0; }

}  // namespace hone::kernels::linear_support
