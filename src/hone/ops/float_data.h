#pragma once
// The floats of a tensor, as the kernels take them.
#include <ATen/core/Tensor.h>

namespace hone::ops {

inline const float* data(const at::Tensor& t) { return t.const_data_ptr<float>(); }
inline float* out(at::Tensor& t) { return t.mutable_data_ptr<float>(); }

}  // namespace hone::ops
