#pragma once
// Byte-pair merging of one word. Independent of where words come from.
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

namespace hone::text {

/// Merge rules by pair of ids: an open-addressing table, because a look-up is the inner loop of tokenising.
class MergeTable {
 public:
  struct Rule {
    int32_t rank = -1;  // -1: no such rule
    int32_t id = -1;    // the merged token
  };
  explicit MergeTable(size_t count = 0);
  /// Adds a rule; false when the pair already has one.
  bool add(int32_t left, int32_t right, Rule rule);
  Rule find(int32_t left, int32_t right) const {
    for (size_t at = slot(left, right);; at = (at + 1) & mask_) {
      const Entry& entry = entries_[at];
      if (entry.rule.rank < 0) return {};
      if (entry.left == left && entry.right == right) return entry.rule;
    }
  }
  size_t size() const { return size_; }

 private:
  struct Entry {
    int32_t left = -1, right = -1;
    Rule rule;
  };
  size_t slot(int32_t left, int32_t right) const {
    const uint64_t key = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    return static_cast<size_t>((key * 0x9E3779B97F4A7C15ull) >> 20) & mask_;
  }
  std::vector<Entry> entries_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

/// Merges `ids` (one per byte at first) in place: the rule of lowest rank first, the leftmost of equals. O(n log n).
void bpe_merge(const MergeTable& merges, std::vector<int32_t>& ids);

/// Words seen lately and their ids: fixed size, direct mapped, so neither memory nor hostile words matter. Thread-safe.
class WordCache {
 public:
  static constexpr size_t max_bytes = 23;
  static constexpr size_t max_ids = 9;
  WordCache();
  /// Appends the ids of a known word; false when it is not known.
  bool find(std::string_view word, std::vector<int32_t>& ids) const;
  /// Keeps a word; ignored when it does not fit.
  void put(std::string_view word, const int32_t* ids, size_t count);

 private:
  static constexpr size_t slots = size_t{1} << 15;
  static constexpr size_t locks = 64;
  struct Slot {
    uint8_t length = 0;
    uint8_t count = 0;
    std::array<char, max_bytes> bytes{};
    std::array<int32_t, max_ids> ids{};
  };
  static size_t hash(std::string_view word);
  std::vector<Slot> slots_;
  mutable std::array<std::mutex, locks> locks_;
};

}  // namespace hone::text
