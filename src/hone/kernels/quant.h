#pragma once
// 4-bit weights (NF4 and FP4 byte for byte as bitsandbytes 0.50 makes them, Q4_0 and Q4_1 as GGUF files hold them), int8 weights and 8-bit
// optimizer states.
// Plain pointers; no LibTorch here.
// Exactness as in kernels.h: a 4-bit weight is the float32 product map[code] * absmax, rounded once (Q4_1: and its
// block's minimum added, rounded once more, as llama.cpp dequantises), an int8 weight code * scale; products with it are the chains of
// kernels.h over these values (never factored per block), so that a 4-bit product has the bits of the dense product of dequantised panels.
#include <cstdint>
#include <numeric>

#include "hone/kernels/kernels.h"

namespace hone::kernels {

// ---- blocks over a flattened tensor ------------------------------------------------------------------------------------------------
enum class QuantType { nf4, fp4, q4_0, q4_1, int8 };
constexpr int64_t kQuantBlock = 64;    // NF4, FP4, int8: weights that share one absmax; blocks run over the flattened tensor
constexpr int64_t kGgufBlock = 32;     // Q4_0, Q4_1: weights that share one scale (and minimum); a row is a multiple of it
constexpr int64_t kNestedBlock = 256;  // absmax values that share one nested absmax, and elements of one block of an 8-bit state

constexpr bool is_gguf(QuantType type) { return type == QuantType::q4_0 || type == QuantType::q4_1; }
constexpr bool has_minimums(QuantType type) { return type == QuantType::q4_1; }
constexpr int quant_bits(QuantType type) { return type == QuantType::int8 ? 8 : 4; }
constexpr int64_t quant_block(QuantType type) { return is_gguf(type) ? kGgufBlock : kQuantBlock; }

/// The 16 values of a code (arXiv:2305.14314, appendix E, for NF4; -8..7 for Q4_0; 0..15 for Q4_1). Null for int8, whose codes are values.
const float* quant_map(QuantType type);
/// codes: (count + 1) / 2 bytes, the first element of a pair in the high nibble; absmax: ceil(count / 64) floats.
void quantize_4bit(const float* x, int64_t count, QuantType type, uint8_t* codes, float* absmax);
void dequantize_4bit(const uint8_t* codes, const float* absmax, int64_t count, QuantType type, float* x);

/// Symmetric int8: scale = largest magnitude of the block / 127, code = x / scale rounded to nearest even (codes: count bytes, two's complement).
/// scales: ceil(count / 64).
void quantize_int8(const float* x, int64_t count, uint8_t* codes, float* scales);

/// The 256 ascending values of the dynamic map (arXiv:2110.02861); signed for first moments and nested absmax, unsigned for second moments.
const float* dynamic_map(bool is_signed);
/// Double quantisation of absmax: codes (count) by the signed map of (absmax - offset) over blocks of 256 with their own nested absmax
/// (ceil(count / 256)). offset is the correctly rounded mean of absmax.
void quantize_nested(const float* absmax, int64_t count, uint8_t* codes, float* nested_absmax, float* offset);
/// The same with an offset that is given, as a checkpoint brings it.
void quantize_nested_about(const float* absmax, int64_t count, float offset, uint8_t* codes, float* nested_absmax);
void dequantize_nested(const uint8_t* codes, const float* nested_absmax, float offset, int64_t count, float* absmax);
/// The same with maps that a checkpoint brings (256 values, ascending or not).
void dequantize_nested(const uint8_t* codes, const float* nested_absmax, float offset, const float* map, int64_t count, float* absmax);

// ---- quantised weights in panels -------------------------------------------------------------------------------------------------------
// A weight (N, K) in panels of 32 rows, as in kernels.h: codes: for every step k the 32 codes of a panel in 16 bytes, low nibble = lane j,
// high nibble = lane j + 16 (int8: 32 bytes, byte j = lane j). scales: blocks of the flattened tensor (64, GGUF's 32) may cross rows, but never
// inside a run of g = gcd(K, block) steps, so every panel keeps one scale for each (run, lane): element (n, k) has scale ((n/32) * (K/g) + k/g) * 32
// + n%32. Lanes past N are 0. minimums (Q4_1 only) are laid out as the scales.
constexpr int64_t quant_run(int64_t k, QuantType type) { return std::gcd(k, quant_block(type)); }
constexpr int64_t quant_step_bytes(QuantType type) { return kPanel * quant_bits(type) / 8; }
constexpr int64_t quant_code_bytes(int64_t n, int64_t k, QuantType type = QuantType::nf4) { return panel_count(n) * k * quant_step_bytes(type); }
constexpr int64_t quant_scale_floats(int64_t n, int64_t k, QuantType type) { return panel_count(n) * (k / quant_run(k, type)) * kPanel; }

struct QuantPanels {
  const uint8_t* codes = nullptr;  // 64-byte aligned
  const float* scales = nullptr;   // 64-byte aligned
  QuantType type = QuantType::nf4;
  const float* minimums = nullptr;  // 64-byte aligned; Q4_1 only
};

/// Places one whole quantised tensor (rows, K) (flattened codes and absmax, as quantize_4bit or quantize_int8 make them) at rows row_begin.. of the
/// panels.
void pack_quant_panels(const uint8_t* codes, const float* absmax, int64_t row_begin, int64_t rows, int64_t K, uint8_t* panel_codes,
                       float* panel_scales, QuantType type = QuantType::nf4);
/// The same for the minimums of its blocks.
void pack_quant_minimums(const float* minimums, int64_t row_begin, int64_t rows, int64_t K, QuantType type, float* panel_minimums);
/// Rows [row_begin, row_begin + rows) dequantised to row-major float32 (rows, K).
void unpack_quant_panels(const QuantPanels& panels, int64_t row_begin, int64_t rows, int64_t K, float* w);

/// linear_forward and linear_backward_input (kernels.h) with a quantised weight: the same bits as with its dequantised panels.
/// Many rows: slices are dequantised once into L2. Few rows (decoding): dequantised in registers, nothing is written.
void linear_forward_quant(const float* x, int64_t ldx, int64_t M, int64_t K, const QuantPanels& panels, int64_t N, const float* bias, float* y,
                          int64_t ldy, bool go_on = false, SideProducts sides = {});
void linear_backward_input_quant(const float* dy, int64_t lddy, int64_t M, int64_t N, const QuantPanels& panels, int64_t K, float* dx, int64_t lddx,
                                 bool go_on = false, SideProducts sides = {});

// ---- 8-bit AdamW -------------------------------------------------------------------------------------------------------------------
/// One AdamW step whose moments are kept as 8-bit codes of the dynamic maps with an absmax for every 256 elements, counted from the start of
/// the call: dequantise, the arithmetic of adamw_step's moments in the order of bitsandbytes, requantise. m, v: count codes; m_absmax,
/// v_absmax: ceil(count / 256). All zero bytes with absmax 0 stand for zero moments only where the map says so: use adamw_8bit_init.
void adamw_8bit_init(uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, int64_t count);
void adamw_8bit_step(float* p, const float* grad, uint8_t* m, float* m_absmax, uint8_t* v, float* v_absmax, int64_t count,
                     const AdamwScalars& scalars);

}  // namespace hone::kernels
