#pragma once
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A draw is a pure function of (key, counter): it never depends on how work was batched, on threads or on a restart.
#include <array>
#include <cstdint>

namespace hone {

/// Four independent 32-bit words for a 64-bit key and a 128-bit counter (four 32-bit words).
std::array<uint32_t, 4> philox4x32(uint64_t key, std::array<uint32_t, 4> counter);

/// What a stream of draws is for, so that no two purposes share noise.
enum class Purpose : uint32_t { shuffle = 1, init = 2, sample = 3, dropout = 4, test = 5, bootstrap = 6 };

/// 64 random bits for (seed, purpose, a, b, c).
uint64_t random_bits(uint64_t seed, Purpose purpose, uint32_t a, uint32_t b, uint32_t c);

/// A double in the open interval (0, 1) with 53 random bits, so that log(u) is finite.
double random_unit(uint64_t seed, Purpose purpose, uint32_t a, uint32_t b, uint32_t c);

/// A permutation of 0..n-1 drawn by Fisher-Yates from (seed, Purpose::shuffle, epoch).
/// Unbiased: a draw that would favour low indices is rejected.
void random_permutation(uint64_t seed, uint32_t epoch, uint32_t n, uint32_t* out);

}  // namespace hone
