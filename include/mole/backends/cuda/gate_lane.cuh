#pragma once
// What the lanes of a warp do together in the gate's kernels: hold a row's features and F, and sum over them.

#include <mole/backends/cuda/quad.cuh>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// Features of a lane side by side; the kernels' K counts how often a warp's lanes go over a row.
inline constexpr int gate_step = 32 * quad;

/// Where a lane finds its features of a row: the k-th four start at(k).
struct GateLane {
  int lane, features;
  bool whole;  ///< every vector is inside the row, and aligned

  __device__ int at(int k) const { return k * gate_step + lane * quad; }

  /// x = the lane's features of a row, zero beyond its end.
  template <int K, class T, class V>
  __device__ void load(const T* row, V (&x)[K][quad]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (whole && at(k) < features) {
        const auto found = *reinterpret_cast<const Quad<T>*>(row + at(k));
#pragma unroll
        for (int c = 0; c < quad; ++c) x[k][c] = static_cast<V>(found.values[c]);
        continue;
      }
#pragma unroll
      for (int c = 0; c < quad; ++c) x[k][c] = at(k) + c < features ? static_cast<V>(row[at(k) + c]) : V(0);
    }
  }

  template <int K, class T, class V>
  __device__ void store(T* row, const V (&x)[K][quad]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (whole && at(k) < features) {
        Quad<T> made;
#pragma unroll
        for (int c = 0; c < quad; ++c) made.values[c] = static_cast<T>(x[k][c]);
        *reinterpret_cast<Quad<T>*>(row + at(k)) = made;
        continue;
      }
#pragma unroll
      for (int c = 0; c < quad; ++c)
        if (at(k) + c < features) row[at(k) + c] = static_cast<T>(x[k][c]);
    }
  }

  /// The lane's rows of F [features, experts], zero where there is none. They lie together.
  template <int N, int K, class T, class V>
  __device__ void load_F(const T* F, int experts, V (&x)[K][quad][N]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (whole && experts == N && at(k) < features) {
#pragma unroll
        for (int q = 0; q < N; ++q) {
          const auto found = *reinterpret_cast<const Quad<T>*>(F + at(k) * N + q * quad);
#pragma unroll
          for (int c = 0; c < quad; ++c) {
            const int e = q * quad + c;
            x[k][e / N][e % N] = static_cast<V>(found.values[c]);
          }
        }
        continue;
      }
#pragma unroll
      for (int c = 0; c < quad; ++c)
#pragma unroll
        for (int i = 0; i < N; ++i)
          x[k][c][i] =
              at(k) + c < features && i < experts ? static_cast<V>(F[(at(k) + c) * experts + i]) : V(0);
    }
  }

  /// The expert of each of the lane's features, 0 beyond the end.
  template <int K>
  __device__ void load_experts(const Index* expert, int (&of)[K][quad]) const {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int c = 0; c < quad; ++c)
        of[k][c] = at(k) + c < features ? static_cast<int>(expert[at(k) + c]) : 0;
  }
};

/// The warp's sum of values[lane / (32 / N)]: each exchange halves the values a lane still sums up.
template <int N, class V>
__device__ V sum_for_lane(V (&values)[N], int lane) {
  int step = 16;
#pragma unroll
  for (int half = N / 2; half > 0; half /= 2, step /= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const V sent = upper ? values[i] : values[i + half];
      const V kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, sent, step);
    }
  }
  V total = values[0];
#pragma unroll
  for (int rest = 16 / N; rest > 0; rest /= 2) total += __shfl_xor_sync(0xffffffffu, total, rest);
  return total;
}

/// The sum, or the largest, of the values that the lanes have of N experts.
template <int N, class V>
__device__ V sum_over_experts(V value) {
#pragma unroll
  for (int step = 16; step >= 32 / N; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}
template <int N, class V>
__device__ V max_over_experts(V value) {
#pragma unroll
  for (int step = 16; step >= 32 / N; step /= 2) {
    const V other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace mole::detail
