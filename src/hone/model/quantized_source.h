#pragma once
// Weights that a checkpoint already holds in 4 bits (made by transformers + bitsandbytes): the codes are NAME.weight, and beside them stand
//   NAME.weight.absmax, .quant_map                       float32; nested: absmax as codes, with .nested_absmax, .nested_quant_map in float32
//   NAME.weight.quant_state.bitsandbytes__nf4|fp4        a JSON text in bytes: shape, block sizes, nested_offset
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "hone/kernels/quant.h"
#include "hone/model/safetensors.h"

namespace hone::model {

struct QuantizedTensor {
  std::span<const std::byte> codes;  // flattened, two a byte, as kernels::quantize_4bit makes them; a view into the mapped file, or of `own_codes`
  std::vector<float> absmax;         // one for a block of the type; dequantised where the file has them nested
  kernels::QuantType type = kernels::QuantType::nf4;
  std::vector<float> minimums{};       // as absmax, where the type has them
  std::vector<std::byte> own_codes{};  // of a GGUF file, whose blocks hold codes and scales together
};

/// The 4-bit tensors of a folder. Every size is checked when they are taken, so that reading afterwards cannot leave the file.
class QuantizedTensors {
 public:
  /// Takes all tensors that belong to 4-bit weights out of `views`. UserError naming `where`, the tensor and what is wrong with it.
  void take(std::map<std::string, const TensorView*>& views, const std::string& where);
  /// By name "….weight": a view without bytes that has the weight's own shape.
  const std::map<std::string, TensorView>& shapes() const { return shapes_; }
  bool contains(const std::string& name) const { return stored_.count(name) != 0; }
  /// Codes and float32 absmax; UserError where an absmax is not finite.
  QuantizedTensor get(const std::string& name) const;
  /// Rows [begin, end) as float32 map[code] * absmax (bitsandbytes rounds them to the dtype that the model computes in; they are not rounded here).
  void load_rows(const std::string& name, int64_t begin, int64_t end, float* out) const;

 private:
  struct Stored {
    kernels::QuantType type = kernels::QuantType::nf4;
    std::span<const std::byte> codes;
    std::span<const std::byte> absmax;  // float32, or codes where it is nested
    bool nested = false;
    std::vector<float> nested_absmax, nested_map;
    float offset = 0;
    std::string where;
  };
  Stored read(const std::string& name, const std::string& state_name, std::map<std::string, const TensorView*>& views, const std::string& where);
  /// The absmax of blocks [begin, end).
  static std::vector<float> absmax_of(const Stored& stored, int64_t begin, int64_t end);
  std::map<std::string, Stored> stored_;
  std::map<std::string, TensorView> shapes_;
};

}  // namespace hone::model
