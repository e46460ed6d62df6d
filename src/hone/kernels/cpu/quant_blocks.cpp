// Quantising and dequantising flat tensors with the bytes of bitsandbytes 0.50: backends/default/ops.py for four bits, csrc/cpu_ops.cpp for
// eight. Blocks are independent, so threads split them. Odd cases follow the peer: see the comments.
#include "hone/kernels/quant_tables.h"

#include "hone/kernels/cpu/dequant.h"
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/dynamic_codes.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/quant.inc"

namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kDynamicBlock = 256;
constexpr int64_t kGrain = 1024;       // blocks of one task: 64K weights
constexpr float kLeastScale = 1e-38f;  // a block's absmax counts as at least this (a denormal)

/// Largest magnitude; a NaN wins over everything: as integers the magnitudes are in order, with NaN above infinity.
float magnitude_of_block(const float* x) {
  const I mask = broadcast_int(0x7fffffff);
  I largest = bit_and(as_int(load(x)), mask);
  for (int64_t i = kLanes; i < kBlock; i += kLanes) largest = larger_int(largest, bit_and(as_int(load(x + i)), mask));
  alignas(64) int32_t lanes[kLanes];
  store_int(lanes, largest);
  int32_t result = 0;
  for (const int32_t lane : lanes) result = lane > result ? lane : result;
  float value;
  __builtin_memcpy(&value, &result, sizeof(value));
  return value;
}

/// Codes of a whole block: x times the reciprocal, then the number of midpoints below (all of them for NaN).
void codes_of_block(const float* x, float absmax, const QuantTables& t, const Table16 (&level)[4], Table16 order, uint8_t* codes) {
  const V scale = broadcast(1.0f / (absmax < kLeastScale ? kLeastScale : absmax));
  alignas(64) int32_t code[kBlock];
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    const V v = mul(load(x + i), scale);
    I rank = descend(broadcast_int(0), le(v, broadcast(t.levels[0][0])));
    for (int step = 1; step < 4; step++) rank = descend(rank, le(v, look_up_8(level[step], rank)));
    store_int(code + i, as_int(look_up(order, rank)));
  }
  for (int64_t i = 0; i < kBlock / 2; i++) codes[i] = static_cast<uint8_t>(code[2 * i] << 4 | code[2 * i + 1]);
}

int32_t code_of(float v, const QuantTables& t) {
  int64_t rank = 0;
  while (rank < 15 && !(v <= t.midpoints[rank])) rank++;
  return t.order[rank];
}

/// The last, partial block is divided by its absmax (not multiplied by the reciprocal), its stored absmax is at least kLeastScale, and an odd
/// count is filled up with the code of 0.
void quantize_rest(const float* x, int64_t count, const QuantTables& t, uint8_t* codes, float* absmax) {
  float largest = 0.0f;
  for (int64_t i = 0; i < count; i++) {
    const float magnitude = __builtin_fabsf(x[i]);
    largest = magnitude > largest || magnitude != magnitude ? magnitude : largest;  // a NaN stays: nothing is larger
  }
  *absmax = largest < kLeastScale ? kLeastScale : largest;
  for (int64_t i = 0; i < count; i += 2) {
    const int32_t first = code_of(x[i] / *absmax, t), second = code_of(i + 1 < count ? x[i + 1] / *absmax : 0.0f, t);
    codes[i / 2] = static_cast<uint8_t>(first << 4 | second);
  }
}

int64_t blocks_of(int64_t count, int64_t block) { return (count + block - 1) / block; }
int64_t end_of(int64_t begin, int64_t size, int64_t count) { return begin + size < count ? begin + size : count; }

/// Table entries of 16 values of one block of an 8-bit state. NaN becomes entry 0, as the peer's conversion makes it.
I dynamic_steps(V x, V inverse) {
  const V v = min(broadcast(1.0f), max(broadcast(-1.0f), mul(x, inverse)));  // in this order a NaN stays
  const V half = mul(add(v, broadcast(1.0f)), broadcast(0.5f));
  return bit_and(truncate(fma(half, broadcast(65535.0f), broadcast(0.5f))), broadcast_int(kDynamicGrid - 1));
}

/// One block of an 8-bit state of x - offset. NaN elements do not count for the absmax; a block of zeros has codes 0.
void quantize_dynamic_block(const float* x, int64_t count, V offset, const uint8_t* table, uint8_t* codes, float* absmax) {
  V largest = zero();
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t n = end_of(0, kLanes, count - i);
    const V magnitude = abs(sub(load_n(x + i, n), offset));
    largest = select(first(n), max(magnitude, largest), largest);
  }
  *absmax = fold_max(largest);
  const V inverse = broadcast(1.0f / *absmax);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t n = end_of(0, kLanes, count - i);
    alignas(64) int32_t steps[kLanes];
    store_int(steps, dynamic_steps(sub(load_n(x + i, n), offset), inverse));
    for (int64_t j = 0; j < n; j++) codes[i + j] = *absmax == 0.0f ? uint8_t{0} : table[steps[j]];
  }
}

}  // namespace

void quantize_4bit(const float* x, int64_t count, const QuantTables& tables, uint8_t* codes, float* absmax) {
  const int64_t whole = count / kBlock;
  parallel(whole, kGrain, [&](int64_t begin, int64_t end) {
    const ScopedDenormals denormals;
    Table16 level[4];
    for (int i = 0; i < 4; i++) level[i] = load_table(tables.levels[i]);
    const Table16 order = load_table(reinterpret_cast<const float*>(tables.order));
    for (int64_t block = begin; block < end; block++) {
      absmax[block] = magnitude_of_block(x + block * kBlock);
      codes_of_block(x + block * kBlock, absmax[block], tables, level, order, codes + block * kBlock / 2);
    }
  });
  if (count % kBlock == 0) return;
  const ScopedDenormals denormals;
  quantize_rest(x + whole * kBlock, count % kBlock, tables, codes + whole * kBlock / 2, absmax + whole);
}

void dequantize_4bit(const uint8_t* codes, const float* absmax, int64_t count, const float* map, float* x) {
  parallel(blocks_of(count, kBlock), kGrain, [&](int64_t begin, int64_t end) {
    const ScopedDenormals denormals;
    for (int64_t block = begin; block < end; block++)
      for (int64_t i = block * kBlock; i < end_of(block * kBlock, kBlock, count); i++)
        x[i] = map[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * absmax[block];
  });
}

void quantize_dynamic(const float* x, int64_t count, float offset, const uint8_t* table, uint8_t* codes, float* absmax) {
  parallel(blocks_of(count, kDynamicBlock), kGrain / 4, [&](int64_t begin, int64_t end) {
    const ScopedDenormals denormals;
    for (int64_t block = begin; block < end; block++) {
      const int64_t from = block * kDynamicBlock;
      quantize_dynamic_block(x + from, end_of(from, kDynamicBlock, count) - from, broadcast(offset), table, codes + from, absmax + block);
    }
  });
}

void dequantize_dynamic(const uint8_t* codes, const float* absmax, int64_t count, float offset, const float* map, float* x) {
  parallel(blocks_of(count, kDynamicBlock), kGrain / 4, [&](int64_t begin, int64_t end) {
    const ScopedDenormals denormals;
    for (int64_t block = begin; block < end; block++)
      for (int64_t i = block * kDynamicBlock; i < end_of(block * kDynamicBlock, kDynamicBlock, count); i++) {
        const float value = map[codes[i]] * absmax[block];
        x[i] = value + offset;
      }
  });
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
