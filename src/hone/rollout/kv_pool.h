#pragma once
// The keys and values of all sequences that are decoded, in blocks of kernels::kKvBlock tokens that sequences share and give back.
#include <cstdint>
#include <vector>

namespace hone::rollout {

/// One mapping, taken at once and given back to the system with the pool; its pages are touched only as blocks are used.
class KvPool {
 public:
  KvPool(int64_t block_floats, int64_t blocks);
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  /// A block with one owner, written with the weights of this version.
  int32_t take(uint64_t version);
  void share(int32_t block) { ++owners_[block]; }
  void release(int32_t block);
  float* data(int32_t block) const { return memory_ + block * block_floats_; }
  uint64_t version(int32_t block) const { return versions_[block]; }
  int64_t block_floats() const { return block_floats_; }
  int64_t free_blocks() const { return static_cast<int64_t>(free_.size()); }
  int64_t blocks() const { return static_cast<int64_t>(owners_.size()); }

 private:
  int64_t block_floats_, bytes_;
  float* memory_ = nullptr;
  std::vector<int32_t> free_, owners_;
  std::vector<uint64_t> versions_;
};

}  // namespace hone::rollout
