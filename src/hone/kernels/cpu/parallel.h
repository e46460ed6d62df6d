#pragma once
// parallel_for and scratch memory for kernels/cpu/*.cpp. Those files must not instantiate inline code of external linkage (std::function,
// std::vector): the linker could keep the AVX-512 copy for the whole program. So they pass a plain function pointer to the baseline.
#include <cstdint>

namespace hone::kernels {

/// hone::parallel_for with a C callback (parallel.cpp). It sets MXCSR, so float arithmetic belongs in the body.
void run_parallel(int64_t count, int64_t grain, void (*body)(const void* context, int64_t begin, int64_t end), const void* context);
/// Number of threads that run_parallel uses.
int parallel_threads();
/// Bytes of a block of panels that should stay in the L2 of a core while rows stream past it.
int64_t panel_block_bytes();
/// The calling thread's scratch memory: at least `floats` floats, 64-byte aligned, contents undefined, valid until the thread's next call with
/// the same slot (0..3). It grows and is kept, so that nothing is allocated in steady state.
float* thread_scratch(int slot, int64_t floats);

#ifdef HONE_ISA_NAMESPACE
namespace HONE_ISA_NAMESPACE {
/// body(begin, end) over disjoint ranges that cover [0, count).
template <class Body>
[[gnu::always_inline]] static inline void parallel(int64_t count, int64_t grain, const Body& body) {
  run_parallel(
      count, grain, [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Body*>(context))(begin, end); }, &body);
}
}  // namespace HONE_ISA_NAMESPACE
#endif

}  // namespace hone::kernels
