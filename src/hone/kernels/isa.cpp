#include <atomic>

#include "hone/base/error.h"
#include "hone/kernels/kernels.h"

namespace hone::kernels {
namespace {

constexpr int kUndecided = -1;
std::atomic<int> chosen{kUndecided};

}  // namespace

bool isa_available(Isa isa) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (isa == Isa::avx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

Isa active_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa == kUndecided) {
    const Isa best = isa_available(Isa::avx512) ? Isa::avx512 : Isa::avx2;
    force_isa(best);
    isa = static_cast<int>(best);
  }
  return static_cast<Isa>(isa);
}

void force_isa(Isa isa) {
  if (!isa_available(Isa::avx2))
    fail("this processor has no AVX2 with FMA and BMI2, the least that hone's kernels need; run hone on a newer x86-64 machine");
  if (!isa_available(isa)) fail("this processor has no AVX-512 (F, BW, DQ, VL); choose --isa avx2 or --isa auto");
  chosen.store(static_cast<int>(isa), std::memory_order_relaxed);
}

const char* isa_name(Isa isa) { return isa == Isa::avx512 ? "avx512" : "avx2"; }

}  // namespace hone::kernels
