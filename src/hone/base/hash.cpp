#include "hone/base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <cstdint>
#include <new>

namespace hone {
namespace {

std::string to_hex(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

XXH3_state_t* state_of(void* state) { return static_cast<XXH3_state_t*>(state); }

}  // namespace

std::string hash_hex(const void* data, size_t size) { return to_hex(XXH3_128bits(data, size)); }

Hasher::Hasher() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_128bits_reset(state_of(state_));
}

Hasher::~Hasher() { XXH3_freeState(state_of(state_)); }

void Hasher::add(const void* data, size_t size) {
  if (size > 0) XXH3_128bits_update(state_of(state_), data, size);
}

void Hasher::add(std::string_view text) {
  const uint64_t size = text.size();
  add(&size, sizeof size);
  add(text.data(), text.size());
}

std::string Hasher::hex() const { return to_hex(XXH3_128bits_digest(state_of(state_))); }

}  // namespace hone
