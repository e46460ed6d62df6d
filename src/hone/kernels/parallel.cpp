#include "hone/kernels/cpu/parallel.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "hone/base/threads.h"

namespace hone::kernels {
namespace {

constexpr int kSlots = 4;
constexpr size_t kAlignment = 64;

struct Free {
  void operator()(float* p) const { std::free(p); }
};
struct Buffer {
  std::unique_ptr<float, Free> data;
  size_t bytes = 0;
};

}  // namespace

void run_parallel(int64_t count, int64_t grain, void (*body)(const void*, int64_t, int64_t), const void* context) {
  parallel_for(count, grain, [body, context](int64_t begin, int64_t end) { body(context, begin, end); });
}

int parallel_threads() { return threads(); }

int64_t panel_block_bytes() {
  constexpr long kSmallest = 256 * 1024, kLargest = 2 * 1024 * 1024;
  static const int64_t bytes = std::clamp(sysconf(_SC_LEVEL2_CACHE_SIZE), kSmallest, kLargest) / 8 * 5;
  return bytes;
}

float* thread_scratch(int slot, int64_t floats) {
  thread_local Buffer buffers[kSlots];
  Buffer& buffer = buffers[slot];
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + kAlignment) / kAlignment * kAlignment;
  if (bytes > buffer.bytes) {
    buffer.data.reset();
    buffer.bytes = 0;
    buffer.data.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
    if (!buffer.data) throw std::bad_alloc();
    buffer.bytes = bytes;
  }
  return buffer.data.get();
}

}  // namespace hone::kernels
