#include "hone/data/shuffle.h"

#include <algorithm>
#include <limits>

#include "hone/base/error.h"
#include "hone/base/rng.h"

namespace hone::data {

constexpr int64_t most = std::numeric_limits<uint32_t>::max();  // epochs and rows are 32-bit counters of the generator

RowOrder::RowOrder(int64_t rows, int64_t batch_size, uint64_t seed, bool shuffle)
    : rows_(rows), batch_size_(batch_size), seed_(seed), shuffle_(shuffle) {
  check(rows >= 1 && rows <= most && batch_size >= 1, "RowOrder: {} rows in batches of {}", rows, batch_size);
}

void RowOrder::prepare_epoch() {
  if (!shuffle_ || prepared_ == position_.epoch) return;
  order_.resize(static_cast<size_t>(rows_));
  random_permutation(seed_, static_cast<uint32_t>(position_.epoch), static_cast<uint32_t>(rows_), order_.data());
  prepared_ = position_.epoch;
}

std::vector<int64_t> RowOrder::next() {
  prepare_epoch();
  const int64_t count = std::min(batch_size_, rows_ - position_.index);
  std::vector<int64_t> batch(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = position_.index + i;
    batch[static_cast<size_t>(i)] = shuffle_ ? order_[static_cast<size_t>(at)] : at;
  }
  position_.index += count;
  if (position_.index == rows_) position_ = {position_.epoch + 1, 0};
  return batch;
}

void RowOrder::seek(Position position) {
  if (position.epoch < 0 || position.epoch >= most || position.index < 0 || position.index >= rows_)
    fail("checkpoint position epoch {}, row {} is outside the data set of {} rows: the data is not that of the checkpoint", position.epoch,
         position.index, rows_);
  position_ = position;
}

Position RowOrder::position_after(int64_t steps) const {
  check(steps >= 0, "RowOrder: {} steps", steps);
  return {steps / steps_per_epoch(), steps % steps_per_epoch() * batch_size_};
}

}  // namespace hone::data
