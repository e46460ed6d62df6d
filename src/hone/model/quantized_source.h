#pragma once
// A weight that a checkpoint already holds in 4 bits (made by transformers + bitsandbytes).
#include <cstddef>
#include <span>
#include <vector>

#include "hone/kernels/quant.h"

namespace hone::model {

struct QuantizedTensor {
  std::span<const std::byte> codes;  // flattened, two a byte, as kernels::quantize_4bit makes them; a view into the mapped file
  std::vector<float> absmax;         // one for 64 elements; dequantised where the file has them nested
  kernels::QuantType type = kernels::QuantType::nf4;
};

}  // namespace hone::model
