// Run-time choice of the instruction set for the products, panels and embeddings.
#include "hone/kernels/kernels.h"
#include "hone/kernels/quant.h"

namespace hone::kernels {

namespace avx2 {
#include "hone/kernels/cpu/linear.inc"
}
namespace avx512 {
#include "hone/kernels/cpu/linear.inc"
}

void pack_panels(const float* w, int64_t row_begin, int64_t rows, int64_t K, float* panels) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::pack_panels : avx2::pack_panels;
  kernel(w, row_begin, rows, K, panels);
}

void unpack_panels(const float* panels, int64_t row_begin, int64_t rows, int64_t K, float* w) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::unpack_panels : avx2::unpack_panels;
  kernel(panels, row_begin, rows, K, w);
}

void transpose_panels(const float* panels, int64_t N, int64_t K, float* out) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::transpose_panels : avx2::transpose_panels;
  kernel(panels, N, K, out);
}

void linear_forward(const float* x, int64_t ldx, int64_t M, int64_t K, const float* panels, int64_t N, const float* bias, float* y, int64_t ldy,
                    bool go_on, SideProducts sides) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::linear_forward : avx2::linear_forward;
  kernel(x, ldx, M, K, panels, N, bias, y, ldy, go_on, sides);
}

void linear_backward_input(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* panels, int64_t K, float* dx, int64_t lddx, bool go_on,
                           SideProducts sides) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::linear_backward_input : avx2::linear_backward_input;
  kernel(dy, lddy, M, N, panels, K, dx, lddx, go_on, sides);
}

void linear_forward_quant(const float* x, int64_t ldx, int64_t M, int64_t K, const QuantPanels& panels, int64_t N, const float* bias, float* y,
                          int64_t ldy, bool go_on, SideProducts sides) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::linear_forward_quant : avx2::linear_forward_quant;
  kernel(x, ldx, M, K, panels.codes, panels.scales, panels.minimums, quant_map(panels.type), quant_run(K, panels.type), N, bias, y, ldy, go_on,
         sides);
}

void linear_backward_input_quant(const float* dy, int64_t lddy, int64_t M, int64_t N, const QuantPanels& panels, int64_t K, float* dx, int64_t lddx,
                                 bool go_on, SideProducts sides) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::linear_backward_input_quant : avx2::linear_backward_input_quant;
  kernel(dy, lddy, M, N, panels.codes, panels.scales, panels.minimums, quant_map(panels.type), quant_run(K, panels.type), K, dx, lddx, go_on, sides);
}

void linear_backward_input(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* panels, int64_t K, float* dx, int64_t lddx,
                           float* scratch) {
  transpose_panels(panels, N, K, scratch);
  linear_backward_input_packed(dy, lddy, M, N, scratch, K, dx, lddx);
}

// dx = dy W is the forward product with the transposed weight: K columns, chains over n.
void linear_backward_input_packed(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* transposed, int64_t K, float* dx, int64_t lddx) {
  linear_forward(dy, lddy, M, N, transposed, K, nullptr, dx, lddx);
}

void linear_backward_weight(const float* dy, int64_t lddy, int64_t M, int64_t N, const float* x, int64_t ldx, int64_t K, float* dw) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::linear_backward_weight : avx2::linear_backward_weight;
  kernel(dy, lddy, M, N, x, ldx, K, dw);
}

void bias_backward(const float* dy, int64_t lddy, int64_t M, int64_t N, float* dbias) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::bias_backward : avx2::bias_backward;
  kernel(dy, lddy, M, N, dbias);
}

void embedding_forward(const float* panels, int64_t D, const int64_t* ids, int64_t T, float* y) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::embedding_forward : avx2::embedding_forward;
  kernel(panels, D, ids, T, y);
}

void embedding_backward(const float* dy, int64_t D, const int64_t* ids, int64_t T, float* demb) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::embedding_backward : avx2::embedding_backward;
  kernel(dy, D, ids, T, demb);
}

void add(const float* a, const float* b, int64_t count, float* out) {
  const auto kernel = active_isa() == Isa::avx512 ? avx512::add : avx2::add;
  kernel(a, b, count, out);
}

}  // namespace hone::kernels
