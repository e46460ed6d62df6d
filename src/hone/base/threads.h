#pragma once
// One pool for all CPU work of hone's kernels. Work is split, sums never are: results do not depend on the number of threads.
#include <cstdint>
#include <functional>

namespace hone {

/// Number of threads that parallel_for uses (at least 1). set_threads(0) takes the number of usable processors
/// (affinity mask and cgroup quota count); that is also the start value. Not to be called from inside a parallel_for.
int threads();
void set_threads(int count);

/// Runs body(begin, end) over disjoint ranges that cover [0, count), in chunks of at least `grain`; ranges are handed out
/// dynamically, and each begins at a multiple of `grain`. Returns when all are done. A nested call, or one made while another thread
/// uses the pool, runs serially. The first exception thrown by a body is rethrown (ranges not yet begun are then left out).
/// Bodies run under ScopedFlushDenormals whichever thread takes them.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

/// The floating-point state of every kernel, for the life of the object: round to nearest, exceptions masked, denormals read and
/// written as 0 (as `vdpbf16ps` does anyway). The state before is restored.
struct ScopedFlushDenormals {
  ScopedFlushDenormals();
  ~ScopedFlushDenormals();
  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
  unsigned saved_;
};

}  // namespace hone
