#pragma once
// One pool for all CPU work of hone's kernels. Work is split, sums never are: results do not depend on the number of threads.
#include <cstdint>
#include <functional>

namespace hone {

/// Number of threads that parallel_for uses (at least 1). set_threads(0) takes the number of usable processors.
int threads();
void set_threads(int count);

/// Runs body(begin, end) over disjoint ranges that cover [0, count), in chunks of at least `grain`; ranges are handed out
/// dynamically. Returns when all are done. A nested call runs serially. The first exception thrown by a body is rethrown.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace hone
