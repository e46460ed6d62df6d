#include "hone/train/reference_cache.h"

#include <algorithm>
#include <cmath>

#include "hone/base/error.h"
#include "hone/base/hash.h"
#include "hone/base/log.h"

namespace hone::train {
namespace {

// Of everything that the log-probabilities follow from: tokens, the tree, and what is predicted from where.
int64_t hash_of(const batch::PackedBatch& row) {
  Hasher hasher;
  const auto add = [&](const auto& values) {
    hasher.add(std::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0])));
  };
  add(row.token_ids);
  add(row.segments);
  add(row.predict_from);
  add(row.targets);
  return static_cast<int64_t>(std::stoull(hasher.hex().substr(0, 16), nullptr, 16));
}

}  // namespace

ReferenceCache::ReferenceCache(std::filesystem::path folder, std::string_view policy, std::string_view data)
    : folder_(std::move(folder)), key_(data::token_cache_key({"reference 1", policy, data})) {
  std::string why_not;
  file_ = data::open_token_cache(folder_, key_, &why_not);
  if (!file_ && why_not != "not there") log_warning("the cache of the reference's log-probabilities is made anew: {}", why_not);
  for (int64_t i = 0; file_ && i < file_->size(); ++i) places_.emplace(file_->row(i).source, i);
}

std::optional<std::span<const float>> ReferenceCache::find(const batch::PackedBatch& row) const {
  const auto place = places_.find(hash_of(row));
  if (place == places_.end()) return std::nullopt;
  const data::TokenRow found = file_->row(place->second);
  if (!std::equal(found.ids.begin(), found.ids.end(), row.targets.begin(), row.targets.end())) return std::nullopt;
  return found.weights;
}

void ReferenceCache::add(const batch::PackedBatch& row, std::span<const float> logprobs) {
  check(static_cast<int64_t>(logprobs.size()) == row.num_predictions(), "{} log-probabilities of {} predictions", logprobs.size(),
        row.num_predictions());
  added_.push_back({hash_of(row), {row.targets.begin(), row.targets.end()}, {logprobs.begin(), logprobs.end()}});
}

void ReferenceCache::write() {
  if (added_.empty()) return;
  try {
    data::TokenCacheWriter writer(folder_, key_);
    std::vector<uint8_t> roles;
    for (int64_t i = 0; file_ && i < file_->size(); ++i) writer.add(file_->row(i));
    for (const Entry& e : added_) {
      roles.resize(e.targets.size());
      writer.add({e.targets, e.logprobs, roles, 0, e.hash});
    }
    file_ = writer.finish();
  } catch (const UserError& error) {
    log_warning("the reference's log-probabilities are not kept for another run: {}", error.what());
    return;
  }
  added_.clear();
  places_.clear();
  for (int64_t i = 0; i < file_->size(); ++i) places_.emplace(file_->row(i).source, i);
}

}  // namespace hone::train
