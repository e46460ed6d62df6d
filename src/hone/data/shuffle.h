#pragma once
// The order of rows over epochs, as a pure function of (seed, epoch), with a position that can be saved and found again exactly.
#include <cstdint>
#include <vector>

namespace hone::data {

/// Rows taken so far: `index` of the order of `epoch`. What a checkpoint keeps.
struct Position {
  int64_t epoch = 0;
  int64_t index = 0;
  bool operator==(const Position&) const = default;
};

/// Hands out row indices in batches. A batch never crosses an epoch: the last one of an epoch may be smaller and is a step of its own
/// (as with TRL's default dataloader_drop_last=False), so an epoch has ceil(rows / batch_size) steps.
class RowOrder {
 public:
  /// rows >= 1 and < 2^32, batch_size >= 1. Without shuffle every epoch is in data order.
  RowOrder(int64_t rows, int64_t batch_size, uint64_t seed, bool shuffle);

  /// The row indices of the next optimizer step.
  std::vector<int64_t> next();

  Position position() const { return position_; }
  /// Goes on from a saved position. UserError when it lies outside this data set (the data changed under a checkpoint).
  void seek(Position position);

  int64_t steps_per_epoch() const { return (rows_ + batch_size_ - 1) / batch_size_; }
  /// Where a run stands after `steps` steps from the beginning.
  Position position_after(int64_t steps) const;

 private:
  void prepare_epoch();

  int64_t rows_, batch_size_;
  uint64_t seed_;
  bool shuffle_;
  Position position_;
  int64_t prepared_ = -1;        // epoch whose order is in order_
  std::vector<uint32_t> order_;  // empty without shuffle
};

}  // namespace hone::data
