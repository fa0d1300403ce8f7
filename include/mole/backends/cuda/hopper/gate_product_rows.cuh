#pragma once
// What the kernels of gates with their product (gate_product_kernel.cuh) do with a block's sums: from a row's h to its gate,
// and back from its dp to dv and the parts of the parameters' gradients. A row is in the four lanes of a quad, whose lane q
// has columns 8 j + 2 q and the next one.

#include <cmath>
#include <cstdint>
#include <limits>

#include <cuda_bf16.h>

#include <mole/core/kernels/gate.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail::hopper {

/// Rows of a block, and the threads that have them.
constexpr int gate_block_rows = 64, gate_product_workers = 256;

/// Waits for the two warpgroups that multiply.
__device__ __forceinline__ void workers_sync() {
  asm volatile("bar.sync 1, %0;" ::"n"(gate_product_workers) : "memory");
}

__device__ __forceinline__ float2 as_floats(std::uint32_t pair) {
  return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}
__device__ __forceinline__ std::uint32_t as_pair(float x, float y) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ __forceinline__ float rounded(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

/// The sum over a quad, the same in its lanes.
__device__ __forceinline__ float sum_over_quad(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// A gate's parameters in shared memory, and its block's rows.
template <int BN, int N>
struct GateShared {
  float F[BN * N], slopes[gate_block_rows * N];
  int of[BN];
  float bias[N], kept[N], rest[gate_product_workers / 32][N + 1], inverse_tau;
  float gates[gate_block_rows][N + 1], dg[gate_block_rows][N + 1];

  /// The parameters, by the workers; Gate::One of either way.
  template <class One>
  __device__ void load(const One& one, int features, int experts) {
    for (int e = threadIdx.x; e < BN * N; e += gate_product_workers)
      F[e] = e / N < features && e % N < experts ? static_cast<float>(one.F[e / N * experts + e % N]) : 0.f;
    for (int j = threadIdx.x; j < BN; j += gate_product_workers)
      of[j] = j < features ? static_cast<int>(one.expert[j]) : 0;
    if (threadIdx.x < N) {
      const int i = threadIdx.x;
      bias[i] = one.bias && i < experts ? one.bias[i] : 0.f;
    }
    if (threadIdx.x == N) inverse_tau = expf(-static_cast<float>(*one.log_tau));
  }
  /// Rows [rows, experts] from `first` on, 0 where there are none.
  __device__ static void load_rows(const bf16* x, Index first, Index rows, int experts,
                                   float (&to)[gate_block_rows][N + 1]) {
    for (int e = threadIdx.x; e < gate_block_rows * N; e += gate_product_workers) {
      const Index row = first + e / N;
      to[e / N][e % N] = row < rows && e % N < experts ? static_cast<float>(x[row * experts + e % N]) : 0.f;
    }
  }
  /// weights = F's row of column j.
  __device__ void weights(int j, float (&w)[N]) const {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(F + j * N + i);
      w[i] = four.x, w[i + 1] = four.y, w[i + 2] = four.z, w[i + 3] = four.w;
    }
  }
  __device__ int2 experts_of(int j) const { return *reinterpret_cast<const int2*>(of + j); }
};

/// From a row's h in a quad, rounded as it is stored, to the gate; writes h, g, norm and p. `row`: the quad's.
template <int BN, int N>
__device__ void gates_of(float (&h)[BN / 4], const GateForward<bf16>& a, bf16* made, GateShared<BN, N>& s,
                         Index row, int gate) {
  const int local = threadIdx.x / 4, q = threadIdx.x % 4, lane = threadIdx.x % 32,
            features = static_cast<int>(a.features), experts = static_cast<int>(a.experts);
  const float lowest = -std::numeric_limits<float>::infinity();
  float squares = 0, logits[N] = {};
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    if (8 * j >= features) break;  // features is a multiple of 8
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float w[N];
      s.weights(8 * j + 2 * q + c, w);
      float& v = h[2 * j + c];
      v = rounded(v);
      squares += v * v;
#pragma unroll
      for (int i = 0; i < N; ++i) logits[i] += v * w[i];
    }
  }
  const float size = length_of(sum_over_quad(squares), a.eps);
  float top = lowest, total = 0;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float product = sum_over_quad(logits[i]);
    logits[i] = s.kept[i] != 0 ? (product / size + s.bias[i]) * s.inverse_tau : lowest;
    top = logits[i] > top ? logits[i] : top;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    logits[i] = s.kept[i] != 0 ? expf(logits[i] - top) : 0.f;
    total += logits[i];
  }
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i % 4 == q) s.gates[local][i] = rounded(total == 0 ? 0.f : logits[i] / total);
  if (q == 0 && row < a.rows) a.norm[gate * a.rows + row] = size;
  __syncwarp();
  if (row < a.rows) {
    const float* const g = s.gates[local];
    const Index at = row * a.stride + gate * a.features + 2 * q;
#pragma unroll
    for (int j = 0; j < BN / 8; ++j) {
      if (8 * j >= features) break;
      const int2 of = s.experts_of(8 * j + 2 * q);
      *reinterpret_cast<std::uint32_t*>(made + at + 8 * j) = as_pair(h[2 * j], h[2 * j + 1]);
      *reinterpret_cast<std::uint32_t*>(a.p + at + 8 * j) =
          as_pair(h[2 * j] * g[of.x], h[2 * j + 1] * g[of.y]);
    }
  }
  // The warp's 8 rows of g lie together.
  const int first = local / 8 * 8;
  for (int e = lane; e < 8 * experts; e += 32) {
    const int by = e / experts;
    const Index to = row - local + first + by;
    if (to < a.rows)
      a.g[(gate * a.rows + to) * experts + e % experts] = static_cast<bf16>(s.gates[first + by][e % experts]);
  }
}

/// From a row's dp in a quad to dv, which is written, and the gradients' parts: the slopes of the logits by v, in `s`, the
/// rows' v, in `rows_of_v`, and s.rest, of each warp. v: the row's as it was stored; size: its length.
template <int BN, int N>
__device__ void pull_back(const float (&dp)[BN / 4], const GateBackward<bf16>& a, GateShared<BN, N>& s,
                          std::uint32_t* rows_of_v, const std::uint32_t (&v)[BN / 8], float size, Index row,
                          int gate) {
  const int local = threadIdx.x / 4, q = threadIdx.x % 4, features = static_cast<int>(a.features);
  const float inverse_tau = s.inverse_tau;
  float slopes[N] = {};  // first the gradient of g
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    if (8 * j >= features) break;
    const int2 of = s.experts_of(8 * j + 2 * q);
    const float2 pair = as_floats(v[j]);
    const float x = pair.x * dp[2 * j];
    float y = pair.y * dp[2 * j + 1];
    // An expert's columns lie together: mostly one comparison does for both.
    if (of.x == of.y) {
      y += x;
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) slopes[i] += of.x == i ? x : 0.f;
    }
#pragma unroll
    for (int i = 0; i < N; ++i) slopes[i] += of.y == i ? y : 0.f;
  }
  float g[N], dot = 0, along = 0, own = 0, dbias[N];
#pragma unroll
  for (int i = 0; i < N; ++i) {
    slopes[i] = sum_over_quad(slopes[i]) + s.dg[local][i];
    g[i] = s.gates[local][i];
    dot += g[i] * slopes[i];
  }
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float ds = g[i] * (slopes[i] - dot);
    // The logits are ln g up to a constant, which the softmax's gradient, summing to zero, does not see.
    if (g[i] > 0) along += ds * logf(g[i]);
    own += ds * s.bias[i];
    dbias[i] = ds * inverse_tau;
    slopes[i] = dbias[i] / size;
    if (i % 4 == q) s.slopes[local * N + i] = slopes[i];
  }
  // The bias is a part of the logits that v has no part in.
  own = along - inverse_tau * own;
  const float pull = size > a.eps ? own / (size * size) : 0.f;
  float dlog_tau = -along;
#pragma unroll
  for (int step = 4; step < 32; step *= 2) {
    dlog_tau += __shfl_xor_sync(0xffffffffu, dlog_tau, step);
#pragma unroll
    for (int i = 0; i < N; ++i) dbias[i] += __shfl_xor_sync(0xffffffffu, dbias[i], step);
  }
  if (threadIdx.x % 32 == 0) {
    float* const rest = s.rest[threadIdx.x / 32];
    rest[N] = dlog_tau;
#pragma unroll
    for (int i = 0; i < N; ++i) rest[i] = dbias[i];
  }
#pragma unroll
  for (int j = 0; j < BN / 8; ++j) {
    if (8 * j >= features) break;
    const int column = 8 * j + 2 * q;
    rows_of_v[local * (BN / 2 + 4) + column / 2] = v[j];
    if (!a.dv) continue;
    const int2 of = s.experts_of(column);
    float w[2][N];
    s.weights(column, w[0]), s.weights(column + 1, w[1]);
    const float2 pair = as_floats(v[j]);
    float x = s.gates[local][of.x] * dp[2 * j] - pull * pair.x,
          y = s.gates[local][of.y] * dp[2 * j + 1] - pull * pair.y;
#pragma unroll
    for (int i = 0; i < N; ++i) x += slopes[i] * w[0][i], y += slopes[i] * w[1][i];
    if (row < a.rows)
      *reinterpret_cast<std::uint32_t*>(a.dv + row * a.stride + gate * a.features + column) = as_pair(x, y);
  }
}

/// The block's parts of dF, dlog_tau and dbias in the places where gate_gather_kernel<N, 1> finds them. By all workers, a
/// column and some of the rows each; in `between` they hand each other their sums.
template <int BN, int N>
__device__ void leave_parts(const GateBackward<bf16>& a, const GateShared<BN, N>& s,
                            const std::uint32_t* rows_of_v, float* between, float* partial,
                            float* partial_rest, int gate) {
  constexpr int slices = gate_product_workers / BN, each = gate_block_rows / slices;
  const int column = threadIdx.x % BN, slice = threadIdx.x / BN;
  const auto* const numbers = reinterpret_cast<const __nv_bfloat16*>(rows_of_v);
  const Index block = static_cast<Index>(gate) * gridDim.x + blockIdx.x;
  float sums[N] = {};
  if (column < a.features) {
#pragma unroll 8
    for (int row = slice * each; row < (slice + 1) * each; ++row) {
      const float v = __bfloat162float(numbers[row * (BN + 8) + column]);
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(s.slopes + row * N + i);
        sums[i] += v * four.x, sums[i + 1] += v * four.y;
        sums[i + 2] += v * four.z, sums[i + 3] += v * four.w;
      }
    }
  }
  if (slice > 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) between[((slice - 1) * N + i) * BN + column] = sums[i];
  }
  workers_sync();
  if (slice == 0) {
    for (int other = 0; other < slices - 1; ++other)
#pragma unroll
      for (int i = 0; i < N; ++i) sums[i] += between[(other * N + i) * BN + column];
  }
  // Columns up to 128 are read: those that are not there are 0.
  const int j = threadIdx.x;
  if (j < 128) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      partial[((block * 4 + j % 4) * N + i) * 32 + j / 4] = slice == 0 ? sums[i] : 0.f;
  }
  if (j < 32) {
    constexpr int share = 32 / N;
    const int of = j % share == 0 ? j / share : N;
    float total = 0;
    for (int warp = 0; warp < gate_product_workers / 32; ++warp) total += s.rest[warp][of];
    partial_rest[block * 32 + j] = total;
  }
}

}  // namespace mole::detail::hopper
