#include "hone/rollout/kv_pool.h"

#include <sys/mman.h>

#include <new>

#include "hone/base/error.h"

namespace hone::rollout {

KvPool::KvPool(int64_t block_floats, int64_t blocks)
    : block_floats_(block_floats),
      bytes_(block_floats * blocks * static_cast<int64_t>(sizeof(float))),
      owners_(static_cast<size_t>(blocks), 0),
      versions_(static_cast<size_t>(blocks), 0) {
  check(block_floats > 0 && blocks > 0, "KvPool: {} blocks of {} floats", blocks, block_floats);
  void* memory = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  madvise(memory, static_cast<size_t>(bytes_), MADV_HUGEPAGE);  // a decoding step touches all of it: fewer TLB misses
  memory_ = static_cast<float*>(memory);
  for (int64_t b = blocks; b-- > 0;) free_.push_back(static_cast<int32_t>(b));
}

KvPool::~KvPool() { munmap(memory_, static_cast<size_t>(bytes_)); }

int32_t KvPool::take(uint64_t version) {
  check(!free_.empty(), "KvPool: all {} blocks are taken", blocks());
  const int32_t block = free_.back();
  free_.pop_back();
  owners_[block] = 1;
  versions_[block] = version;
  return block;
}

void KvPool::release(int32_t block) {
  check(owners_[block] > 0, "KvPool: block {} is free already", block);
  if (--owners_[block] == 0) free_.push_back(block);
}

}  // namespace hone::rollout
