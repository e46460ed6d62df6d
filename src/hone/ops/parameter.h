#pragma once
// A trainable tensor in the layout its kernels read, with the buffer its gradient is accumulated into.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "hone/kernels/quant.h"

namespace hone::ops {

/// Which code computes: hone's exact CPU kernels, or plain ATen (the meaning of every op, and how a GPU runs until it has kernels).
enum class Backend { kernels, reference };

/// Rows [row_begin, row_begin + rows) of a parameter are the checkpoint's tensor `name` (a fused qkv holds three).
struct Part {
  std::string name;
  int64_t row_begin = 0;
  int64_t rows = 0;
};

struct Parameter {
  std::vector<Part> parts;  // in the checkpoint's order
  int64_t rows = 0;         // N of a matrix, length of a vector
  int64_t cols = 0;         // K of a matrix, 0 for a vector
  Backend backend = Backend::kernels;
  at::Tensor value;  // kernels: a matrix is (panel_count(N), K, 32) panels, see kernels.h; reference: (N, K). A vector is (rows).
  at::Tensor grad;   // like value; undefined while nothing is trained
  bool trainable = true;
  double learning_rate_scale = 1.0;                        // LoRA+ (arXiv:2402.12354): the optimizer multiplies its rate by it
  std::vector<std::pair<at::Tensor, at::Tensor>> lookups;  // (ids, gradient rows) of this step's embedding lookups, in data order

  /// A 4-bit or int8 matrix has these instead of a value (frozen). kernels: panels as in kernels/quant.h; reference: codes (N, K) uint8, one a byte,
  /// and scales (N, K / quant_run(K)). minimums: as scales, where the type has them.
  at::Tensor codes, scales, minimums;
  kernels::QuantType quant = kernels::QuantType::nf4;

  bool defined() const { return value.defined() || codes.defined(); }
  bool is_quantised() const { return codes.defined(); }
  bool is_matrix() const { return cols > 0; }
  const std::string& name() const { return parts.front().name; }
  int64_t numel() const { return rows * (cols > 0 ? cols : 1); }
};

/// The panels of a quantised parameter of the kernel backend, with all that its values consist of. Good while the parameter lives.
kernels::QuantPanels quant_panels(const Parameter& parameter);

/// Bytes of the values, in whatever form.
int64_t value_bytes(const Parameter& parameter);

/// An uninitialised (kernels: zeroed) float32 parameter on the device of `options`.
Parameter make_parameter(std::vector<Part> parts, int64_t cols, Backend backend, const at::TensorOptions& options);
/// A frozen quantised matrix, zeroed; set_quantised_part fills it.
Parameter make_quantised_parameter(std::vector<Part> parts, int64_t cols, kernels::QuantType type, Backend backend, const at::TensorOptions& options);
/// Places one whole quantised tensor, flattened codes and absmax as kernels::quantize_4bit or quantize_int8 makes them; minimums where the type has
/// them.
void set_quantised_part(Parameter& parameter, const Part& part, const uint8_t* codes, const float* absmax, const float* minimums = nullptr);
/// Copies one part in from, or out to, row-major float32 memory of part.rows * max(cols, 1) floats.
void set_part(Parameter& parameter, const Part& part, const float* data);
void get_part(const Parameter& parameter, const Part& part, float* data);
/// The same for the gradient (zeros where there is none).
void get_part_gradient(const Parameter& parameter, const Part& part, float* data);
/// Allocates the gradient buffer and zeroes it; on the reference backend makes autograd accumulate into it.
void enable_gradient(Parameter& parameter);
/// The matrix as an (N, K) tensor of the parameter's dtype (a view on the reference backend, else or where it is 4-bit an unpacked copy).
at::Tensor plain_value(const Parameter& parameter);

}  // namespace hone::ops
