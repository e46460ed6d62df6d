#include "hone/text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <queue>

namespace hone::text {

MergeTable::MergeTable(size_t count) : entries_(std::bit_ceil(std::max<size_t>(16, count * 2 + 1))), mask_(entries_.size() - 1) {}

bool MergeTable::add(int32_t left, int32_t right, Rule rule) {
  size_t at = slot(left, right);
  for (; entries_[at].rule.rank >= 0; at = (at + 1) & mask_)
    if (entries_[at].left == left && entries_[at].right == right) return false;
  entries_[at] = {left, right, rule};
  ++size_;
  return true;
}

namespace {

// Words of everyday length: scanning all pairs for the lowest rank beats a queue.
void merge_by_scan(const MergeTable& merges, std::vector<int32_t>& ids) {
  constexpr size_t capacity = 64;
  MergeTable::Rule rules[capacity];  // rules[i]: the rule for (ids[i], ids[i + 1])
  size_t n = ids.size();
  for (size_t i = 0; i + 1 < n; ++i) rules[i] = merges.find(ids[i], ids[i + 1]);
  while (n > 1) {
    size_t best = n;
    for (size_t i = 0; i + 1 < n; ++i)
      if (rules[i].rank >= 0 && (best == n || rules[i].rank < rules[best].rank)) best = i;
    if (best == n) break;
    ids[best] = rules[best].id;
    for (size_t i = best + 1; i + 1 < n; ++i) ids[i] = ids[i + 1];
    for (size_t i = best + 1; i + 2 < n; ++i) rules[i] = rules[i + 1];
    --n;
    if (best > 0) rules[best - 1] = merges.find(ids[best - 1], ids[best]);
    if (best + 1 < n) rules[best] = merges.find(ids[best], ids[best + 1]);
  }
  ids.resize(n);
}

struct Candidate {
  int32_t rank, id;
  uint32_t left, right;       // positions of the two symbols
  int32_t left_id, right_id;  // what they were when the candidate was made: it is stale when they have changed
  bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

// Long words: a queue of candidates over a doubly linked list of symbols.
void merge_by_queue(const MergeTable& merges, std::vector<int32_t>& ids) {
  constexpr uint32_t none = UINT32_MAX;
  constexpr int32_t gone = -1;
  const auto n = static_cast<uint32_t>(ids.size());
  std::vector<uint32_t> previous(n), next(n);
  for (uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? none : i - 1;
    next[i] = i + 1 == n ? none : i + 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](uint32_t left, uint32_t right) {
    if (left == none || right == none) return;
    const MergeTable::Rule rule = merges.find(ids[left], ids[right]);
    if (rule.rank >= 0) queue.push({rule.rank, rule.id, left, right, ids[left], ids[right]});
  };
  for (uint32_t i = 0; i + 1 < n; ++i) consider(i, i + 1);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    if (ids[top.left] != top.left_id || next[top.left] != top.right || ids[top.right] != top.right_id) continue;
    ids[top.left] = top.id;
    ids[top.right] = gone;
    next[top.left] = next[top.right];
    if (next[top.left] != none) previous[next[top.left]] = top.left;
    consider(previous[top.left], top.left);
    consider(top.left, next[top.left]);
  }
  ids.erase(std::remove(ids.begin(), ids.end(), gone), ids.end());
}

}  // namespace

void bpe_merge(const MergeTable& merges, std::vector<int32_t>& ids) {
  if (ids.size() < 2) return;
  if (ids.size() <= 64)
    merge_by_scan(merges, ids);
  else
    merge_by_queue(merges, ids);
}

WordCache::WordCache() : slots_(slots) {}

size_t WordCache::hash(std::string_view word) {
  uint64_t h = 0xCBF29CE484222325ull;
  for (const char c : word) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return static_cast<size_t>(h ^ h >> 29) & (slots - 1);
}

bool WordCache::find(std::string_view word, std::vector<int32_t>& ids) const {
  if (word.size() > max_bytes) return false;
  const size_t at = hash(word);
  const std::lock_guard lock(locks_[at % locks]);
  const Slot& slot = slots_[at];
  if (slot.count == 0 || slot.length != word.size() || std::memcmp(slot.bytes.data(), word.data(), word.size()) != 0) return false;
  ids.insert(ids.end(), slot.ids.begin(), slot.ids.begin() + slot.count);
  return true;
}

void WordCache::put(std::string_view word, const int32_t* ids, size_t count) {
  if (word.size() > max_bytes || count > max_ids || count == 0) return;
  const size_t at = hash(word);
  const std::lock_guard lock(locks_[at % locks]);
  Slot& slot = slots_[at];
  slot.length = static_cast<uint8_t>(word.size());
  slot.count = static_cast<uint8_t>(count);
  std::memcpy(slot.bytes.data(), word.data(), word.size());
  std::copy(ids, ids + count, slot.ids.begin());
}

}  // namespace hone::text
