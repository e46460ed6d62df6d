// RMS norm, rotary positions, SwiGLU. Rows are independent of each other; the norm's weight gradient is split by columns.
#include "hone/kernels/cpu/parallel.h"
#include "hone/kernels/cpu/rope_row.h"
#include "hone/kernels/cpu/simd_math.h"

namespace hone::kernels::HONE_ISA_NAMESPACE {
#include "hone/kernels/cpu/pointwise.inc"

namespace {

/// Rows per chunk of work: at least 16,384 elements, so that handing out a chunk costs little beside it.
int64_t row_grain(int64_t row_elements) { return row_elements >= 16384 ? 1 : 16384 / (row_elements + 1) + 1; }

void norm_row(const float* x, int64_t D, const float* w, float eps, float* y, float* rstd) {
  V squares = zero();
  for (int64_t i = 0; i < D; i += kLanes) {
    const V value = load_part(x + i, D - i);
    squares = fma(value, value, squares);
  }
  const V mean = add(div(broadcast(fold_add(squares)), broadcast(static_cast<float>(D))), broadcast(eps));
  const V scale = div(broadcast(1.0f), sqrt(mean));
  store_n(rstd, scale, 1);
  for (int64_t i = 0; i < D; i += kLanes) store_part(y + i, mul(mul(load_part(x + i, D - i), scale), load_part(w + i, D - i)), D - i);
}

/// With h = x rstd: dx = rstd (dy w - h mean(dy w h)).
void norm_row_backward(const float* dy, const float* x, float rstd, const float* w, int64_t D, float* dx) {
  const V scale = broadcast(rstd);
  V products = zero();
  for (int64_t i = 0; i < D; i += kLanes) {
    const V g = mul(load_part(dy + i, D - i), load_part(w + i, D - i));
    products = fma(g, mul(load_part(x + i, D - i), scale), products);
  }
  const V mean = div(broadcast(fold_add(products)), broadcast(static_cast<float>(D)));
  for (int64_t i = 0; i < D; i += kLanes) {
    const V g = mul(load_part(dy + i, D - i), load_part(w + i, D - i));
    const V h = mul(load_part(x + i, D - i), scale);
    store_part(dx + i, mul(fnma(h, mean, g), scale), D - i);
  }
}

/// dw[c] goes on by a chain over t of dy[t][c] * (x[t][c] * rstd[t]), for columns begin..end-1.
void norm_weight_gradient(const float* dy, const float* x, const float* rstd, int64_t T, int64_t D, int64_t begin, int64_t end, float* dw) {
  constexpr int kWide = 4;
  int64_t c = begin;
  for (; c + kWide * kLanes <= end; c += kWide * kLanes) {
    V sum[kWide];
    for (int j = 0; j < kWide; j++) sum[j] = load(dw + c + j * kLanes);
    for (int64_t t = 0; t < T; t++) {
      const V scale = broadcast(rstd[t]);
      for (int j = 0; j < kWide; j++) {
        const int64_t at = t * D + c + j * kLanes;
        sum[j] = fma(load(dy + at), mul(load(x + at), scale), sum[j]);
      }
    }
    for (int j = 0; j < kWide; j++) store(dw + c + j * kLanes, sum[j]);
  }
  for (; c < end; c += kLanes) {
    const int64_t left = end - c;
    V sum = load_part(dw + c, left);
    for (int64_t t = 0; t < T; t++) sum = fma(load_part(dy + t * D + c, left), mul(load_part(x + t * D + c, left), broadcast(rstd[t])), sum);
    store_part(dw + c, sum, left);
  }
}

V sigmoid(V x) { return div(broadcast(1.0f), add(broadcast(1.0f), exp(neg(x)))); }

}  // namespace

void rms_norm_forward(const float* x, int64_t T, int64_t D, const float* w, float eps, float* y, float* rstd) {
  parallel(T, row_grain(D), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) norm_row(x + t * D, D, w, eps, y + t * D, rstd + t);
  });
}

void rms_norm_backward(const float* dy, const float* x, const float* rstd, const float* w, int64_t T, int64_t D, float* dx, float* dw) {
  if (dw) {
    constexpr int64_t kColumns = 4 * kLanes;
    parallel((D + kColumns - 1) / kColumns, 16384 / (T * kColumns + 1) + 1, [=](int64_t begin, int64_t end) {
      norm_weight_gradient(dy, x, rstd, T, D, begin * kColumns, end * kColumns < D ? end * kColumns : D, dw);
    });
  }
  parallel(T, row_grain(D), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) norm_row_backward(dy + t * D, x + t * D, rstd[t], w, D, dx + t * D);
  });
}

void rope_apply(float* x, int64_t ldx, int64_t T, int64_t heads, int64_t d, const int64_t* positions, const float* cos, const float* sin,
                bool inverse) {
  const int64_t half = d / 2;
  parallel(T, row_grain(heads * d), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) rope_row(x + t * ldx, heads, d, cos + positions[t] * half, sin + positions[t] * half, inverse);
  });
}

void swiglu_forward(const float* gate_up, int64_t T, int64_t F, float* y) {
  parallel(T, row_grain(F), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* gate = gate_up + t * 2 * F;
      for (int64_t i = 0; i < F; i += kLanes) {
        const V g = load_part(gate + i, F - i);
        store_part(y + t * F + i, mul(div(g, add(broadcast(1.0f), exp(neg(g)))), load_part(gate + F + i, F - i)), F - i);
      }
    }
  });
}

void swiglu_backward(const float* dy, const float* gate_up, int64_t T, int64_t F, float* dgate_up) {
  parallel(T, row_grain(F), [=](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const float* gate = gate_up + t * 2 * F;
      float* dgate = dgate_up + t * 2 * F;
      for (int64_t i = 0; i < F; i += kLanes) {
        const int64_t left = F - i;
        const V g = load_part(gate + i, left), up = load_part(gate + F + i, left), out = load_part(dy + t * F + i, left);
        const V s = sigmoid(g);
        // silu' = s (1 + g (1 - s))
        const V slope = mul(s, fma(g, sub(broadcast(1.0f), s), broadcast(1.0f)));
        store_part(dgate + i, mul(mul(out, up), slope), left);
        store_part(dgate + F + i, mul(out, mul(g, s)), left);
      }
    }
  });
}

void exp_lanes(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += kLanes) store_part(y + i, exp(load_part(x + i, count - i)), count - i);
}

void log_lanes(const float* x, int64_t count, float* y) {
  for (int64_t i = 0; i < count; i += kLanes) store_part(y + i, log(load_part(x + i, count - i)), count - i);
}

}  // namespace hone::kernels::HONE_ISA_NAMESPACE
