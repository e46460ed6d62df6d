#pragma once
// Stored number formats to float32 and back. Dequantisation is a multiply and then an add, never fused, so that the values are those of
// gguf-py. Conversions to 16 bits round to nearest, ties to even. Bit manipulation only: MXCSR flags cannot change a result.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hone::model {

/// Formats that hone reads; safetensors has the first three and u8 (whole numbers from 0 to 255: codes, never weights as they stand).
enum class DType : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1, u8 };

std::string_view dtype_name(DType dtype);

/// Elements in a block and the bytes it takes (1 element for the unquantised formats).
int64_t block_elements(DType dtype);
int64_t block_bytes(DType dtype);

float f16_to_float(uint16_t bits);
float bf16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);
uint16_t float_to_bf16(float value);

/// Writes `count` float32 values; `count` is a multiple of block_elements(dtype); `in` needs no alignment.
void to_float32(DType dtype, const std::byte* in, int64_t count, float* out);

/// q4_0 and q4_1: the blocks taken apart, as kernels/quant.h takes them. codes: two a byte, the first element in the high nibble; one scale and
/// (q4_1; else may be null) one minimum a block.
void take_apart(DType dtype, const std::byte* blocks, int64_t block_count, uint8_t* codes, float* scales, float* minimums);

/// The other direction, for f32, f16, bf16 and u8 only. Returns false when a value does not fit (a finite one that overflows float16, one that
/// is no whole number from 0 to 255 for u8).
bool from_float32(DType dtype, const float* in, int64_t count, std::byte* out);

}  // namespace hone::model
