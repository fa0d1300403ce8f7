#pragma once
// The gate in one kernel each way: from the experts' h [rows, R] to the gate and the gated h; and back, with
// the gradients of F and tau summed over the rows in a fixed order. A warp takes a row. A lane holds four
// features of each 128, with their rows of F in registers, and knows the gate of one expert of N. The grid's
// second extent counts the gates.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/gate_lane.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/branch.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/kernels/gate.hpp>

namespace mole::detail {

inline constexpr int gate_warps = 8, gate_threads = 32 * gate_warps;
/// Shared memory a block may have without asking for more.
inline constexpr Index gate_shared_bytes = 48 * 1024;

template <int N, int K, class T>
__global__ void __launch_bounds__(gate_threads) gate_forward_kernel(GateForward<T> a, bool whole) {
  using V = Compute<T>;
  constexpr int share = 32 / N;  // lanes that know the same gate
  follow_earlier();
  const auto& one = a.gate[blockIdx.y];
  const Index first = blockIdx.y * a.features, first_row = blockIdx.y * a.rows;
  const int experts = static_cast<int>(a.experts), warp = threadIdx.x / 32;
  const GateLane my{static_cast<int>(threadIdx.x % 32), static_cast<int>(a.features), whole};
  const int mine = my.lane / share;
  V F[K][quad][N];
  my.load_F(one.F, experts, F);
  int of[K][quad] = {};
  if (a.p) my.load_experts(one.expert, of);
  const bool kept = mine < experts && (!one.keep || static_cast<V>(one.keep[mine]) != V(0));
  const V bias = kept && one.bias ? one.bias[mine] : V(0);
  const V inverse_tau = exp(-static_cast<V>(*one.log_tau)), lowest = -std::numeric_limits<V>::infinity();
  const Index step = static_cast<Index>(gridDim.x) * gate_warps;
  for (Index row = static_cast<Index>(blockIdx.x) * gate_warps + warp; row < a.rows; row += step) {
    V v[K][quad], products[N] = {}, squares = 0;
    my.load(a.v + row * a.stride + first, v);
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int c = 0; c < quad; ++c) {
        squares += v[k][c] * v[k][c];
#pragma unroll
        for (int i = 0; i < N; ++i) products[i] += v[k][c] * F[k][c][i];
      }
    const V product = sum_for_lane(products, my.lane);
    const V size = length_of(sum_over_warp(squares), a.eps);
    const V logit = kept ? (product / size + bias) * inverse_tau : lowest;
    const V top = max_over_experts<N>(logit);
    const V weight = kept ? exp(logit - top) : V(0), total = sum_over_experts<N>(weight);
    const T gate = static_cast<T>(total == V(0) ? V(0) : weight / total);
    if (mine < experts && my.lane % share == 0) a.g[(first_row + row) * a.experts + mine] = gate;
    if (my.lane == 0) a.norm[first_row + row] = size;
    if (!a.p) continue;
    // As rounded for storage: the backward pass will read these very weights.
    const V stored = static_cast<V>(gate);
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int c = 0; c < quad; ++c) v[k][c] *= __shfl_sync(0xffffffffu, stored, of[k][c] * share);
    my.store(a.p + row * a.stride + first, v);
  }
}

/// The lane whose sum is dlog_tau; the first of the lanes that know an expert's gate has its part of dbias.
inline constexpr int gate_tau_lane = 1;

/// dv of every row; and of the block's rows together, in `partial` [gates, blocks, K * 4 * N * 32], dF in the
/// order of the registers that summed it up, and in `partial_rest` [gates, blocks, 32] dlog_tau and dbias.
template <int N, int K, class T>
__global__ void __launch_bounds__(gate_threads)
    gate_backward_kernel(GateBackward<T> a, bool whole, Compute<T>* partial, Compute<T>* partial_rest) {
  using V = Compute<T>;
  constexpr int share = 32 / N, entries = K * quad * N;
  static_assert(share > gate_tau_lane);
  extern __shared__ __align__(32) unsigned char shared[];
  follow_earlier();
  const auto& one = a.gate[blockIdx.y];
  const Index first = blockIdx.y * a.features, first_row = blockIdx.y * a.rows;
  const int experts = static_cast<int>(a.experts), warp = threadIdx.x / 32;
  const GateLane my{static_cast<int>(threadIdx.x % 32), static_cast<int>(a.features), whole};
  const int mine = my.lane / share;
  const bool there = mine < experts;
  const V bias = there && one.bias ? one.bias[mine] : V(0);
  V F[K][quad][N], dF[K][quad][N] = {}, dlog_tau = 0, dbias = 0;
  my.load_F(one.F, experts, F);
  int of[K][quad] = {};
  if (a.dp) my.load_experts(one.expert, of);
  const V inverse_tau = exp(-static_cast<V>(*one.log_tau));
  const Index step = static_cast<Index>(gridDim.x) * gate_warps;
  for (Index row = static_cast<Index>(blockIdx.x) * gate_warps + warp; row < a.rows; row += step) {
    V v[K][quad], dp[K][quad] = {};
    my.load(a.v + row * a.stride + first, v);
    const V g = there ? static_cast<V>(a.g[(first_row + row) * a.experts + mine]) : V(0);
    const V size = a.norm[first_row + row];
    V sent = 0;  // the gradient of g
    if (a.dp) {
      my.load(a.dp + row * a.stride + first, dp);
      V products[N] = {};
#pragma unroll
      for (int k = 0; k < K; ++k) {
        // An expert's features lie together: mostly one comparison does for the four.
        V run = 0;
#pragma unroll
        for (int c = 0; c < quad; ++c) {
          run += v[k][c] * dp[k][c];
          if (c + 1 < quad && of[k][c] == of[k][c + 1]) continue;
#pragma unroll
          for (int i = 0; i < N; ++i) products[i] += of[k][c] == i ? run : V(0);
          run = 0;
        }
      }
      sent = sum_for_lane(products, my.lane);
    }
    if (one.dg && there) sent += static_cast<V>(one.dg[row * a.experts + mine]);
    const V ds = g * (sent - sum_over_experts<N>(g * sent));
    // The logits are ln g up to a constant, which the softmax's gradient, summing to zero, does not see.
    const V along = sum_over_experts<N>(g > V(0) ? ds * std::log(g) : V(0));
    dlog_tau -= along;
    dbias += ds * inverse_tau;
    const V slope = ds * inverse_tau / size;
    V slopes[N];
#pragma unroll
    for (int i = 0; i < N; ++i) slopes[i] = __shfl_sync(0xffffffffu, slope, i * share);
    if (one.dF) {
#pragma unroll
      for (int k = 0; k < K; ++k)
#pragma unroll
        for (int c = 0; c < quad; ++c)
#pragma unroll
          for (int i = 0; i < N; ++i) dF[k][c][i] += v[k][c] * slopes[i];
    }
    if (!a.dv) continue;
    V dv[K][quad] = {};
    if (a.add_dv) my.load(a.dv + row * a.stride + first, dv);
    // The bias is a part of the logits that v has no part in.
    const V own = one.bias ? along - inverse_tau * sum_over_experts<N>(ds * bias) : along;
    const V pull = size > a.eps ? own / (size * size) : V(0);
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int c = 0; c < quad; ++c) {
        dv[k][c] += __shfl_sync(0xffffffffu, g, of[k][c] * share) * dp[k][c] - pull * v[k][c];
#pragma unroll
        for (int i = 0; i < N; ++i) dv[k][c] += slopes[i] * F[k][c][i];
      }
    my.store(a.dv + row * a.stride + first, dv);
  }
  V rest = my.lane % share == 0 ? dbias : dlog_tau;
  // The upper half of the warps hands its sums to the lower half, until one has them all.
  V* const sums = reinterpret_cast<V*>(shared);
#pragma unroll
  for (int half = gate_warps / 2; half > 0; half /= 2) {
    V* const slot = sums + (warp % half) * (entries + 1) * 32 + my.lane;
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int e = 0; e < entries; ++e) slot[e * 32] = dF[e / (quad * N)][e / N % quad][e % N];
      slot[entries * 32] = rest;
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int e = 0; e < entries; ++e) dF[e / (quad * N)][e / N % quad][e % N] += slot[e * 32];
      rest += slot[entries * 32];
    }
    __syncthreads();
  }
  if (warp > 0) return;
  const Index block = static_cast<Index>(blockIdx.y) * gridDim.x + blockIdx.x;
  V* const to = partial + block * entries * 32 + my.lane;
#pragma unroll
  for (int e = 0; e < entries; ++e)
    if (one.dF) to[e * 32] = dF[e / (quad * N)][e / N % quad][e % N];
  partial_rest[block * 32 + my.lane] = rest;
}

/// Threads that share the parts of an entry.
inline constexpr int gate_slices = 16;

/// dF, dlog_tau and dbias from the blocks' parts, in their order: a block of 32 x slices threads for each of the
/// registers, one for dlog_tau and one for dbias.
template <int N, int K, class T>
__global__ void __launch_bounds__(32 * gate_slices)
    gate_gather_kernel(GateBackward<T> a, const Compute<T>* partial, const Compute<T>* partial_rest,
                       int blocks) {
  using V = Compute<T>;
  constexpr int share = 32 / N, entries = K * quad * N;
  __shared__ V sums[gate_slices][32];
  const auto& one = a.gate[blockIdx.y];
  partial += static_cast<Index>(blockIdx.y) * blocks * entries * 32;
  partial_rest += static_cast<Index>(blockIdx.y) * blocks * 32;
  const int e = static_cast<int>(blockIdx.x), lane = threadIdx.x, slice = threadIdx.y;
  const bool tau = e == entries, bias = e > entries;
  V total = 0;
  follow_earlier();
  if (tau) {
    for (int block = slice * 32 + lane; block < blocks; block += 32 * gate_slices)
      total += partial_rest[block * 32 + gate_tau_lane];
    total = sum_over_warp(total);
  } else if (bias) {
    for (int block = slice; one.dbias && block < blocks; block += gate_slices)
      total += partial_rest[block * 32 + lane];
  } else if (one.dF) {
#pragma unroll 4
    for (int block = slice; block < blocks; block += gate_slices)
      total += partial[(static_cast<Index>(block) * entries + e) * 32 + lane];
  }
  sums[slice][lane] = total;
  __syncthreads();
  if (slice > 0) return;
  for (int s = 1; s < gate_slices; ++s) total += sums[s][lane];
  if (tau) {
    if (lane == 0 && one.dlog_tau) *one.dlog_tau = static_cast<T>(total);
    return;
  }
  if (bias) {
    if (one.dbias && lane % share == 0 && lane / share < a.experts) one.dbias[lane / share] = total;
    return;
  }
  const int i = e % N, j = e / (quad * N) * gate_step + lane * quad + e / N % quad;
  if (!one.dF || i >= a.experts || j >= a.features) return;
  T* const to = one.dF + j * a.experts + i;
  if (one.add_dF) total += static_cast<V>(*to);
  *to = static_cast<T>(total);
}

/// The kernels' N and K for a gate's extents.
inline int gate_width(Index experts) { return experts <= 4 ? 4 : experts <= 8 ? 8 : 16; }
inline int gate_repeats(Index features) {
  return features <= gate_step ? 1 : features <= 2 * gate_step ? 2 : 4;
}

/// Shared memory of the backward kernel.
template <class T>
constexpr Index gate_shared(int N, int K) {
  return gate_warps / 2 * 32 * (K * quad * N + 1) * static_cast<Index>(sizeof(Compute<T>));
}

/// Whether there are kernels for a gate of these extents: F's part of a lane must fit into its registers.
template <class T>
bool gate_fits(Index features, Index experts) {
  if (experts > 16 || features > 4 * gate_step) return false;
  const int N = gate_width(experts), K = gate_repeats(features);
  return N * K <= 16 && gate_shared<T>(N, K) <= gate_shared_bytes;
}

/// f(N, K) as constants, for extents that fit.
template <class T, class F>
void with_gate_extents(Index features, Index experts, F f) {
  const auto with = [&]<int N, int K>() {
    if constexpr (gate_shared<T>(N, K) <= gate_shared_bytes)
      f(std::integral_constant<int, N>(), std::integral_constant<int, K>());
  };
  const int N = gate_width(experts), K = gate_repeats(features);
  if (N == 4)
    return K == 1   ? with.template operator()<4, 1>()
           : K == 2 ? with.template operator()<4, 2>()
                    : with.template operator()<4, 4>();
  if (N == 8) return K == 1 ? with.template operator()<8, 1>() : with.template operator()<8, 2>();
  with.template operator()<16, 1>();
}

/// Blocks for a warp a row, and no more than `most` a multiprocessor.
inline unsigned gate_blocks(Index rows, Index most) {
  return static_cast<unsigned>(
      std::min<Index>((rows + gate_warps - 1) / gate_warps, most * cuda_context().processors));
}

/// Whether rows of these arrays can be read by quads.
template <class... P>
bool gate_whole(Index features, Index stride, const P*... arrays) {
  return features % quad == 0 && stride % quad == 0 &&
         ((reinterpret_cast<std::uintptr_t>(arrays) % (quad * sizeof(P)) == 0) && ...);
}
/// The same for the arrays of a gate and those of all its gates.
template <class A, class... P>
bool gate_whole(const A& a, const P*... arrays) {
  for (int i = 0; i < a.gates; ++i)
    if (!gate_whole(a.features, a.stride, a.gate[i].F)) return false;
  return gate_whole(a.features, a.stride, arrays...);
}

/// Of Cuda::gate_forward. B is the backend that owns the buffer pool.
template <class B, class T>
bool launch_gate(const GateForward<T>& a) {
  if (!gate_fits<T>(a.features, a.experts)) return false;
  if (a.rows == 0) return true;
  const bool whole = gate_whole(a, a.v, a.p);
  const dim3 grid(gate_blocks(a.rows, 4), static_cast<unsigned>(a.gates));
  with_gate_extents<T>(a.features, a.experts, [&](auto N, auto K) {
    launch_early(gate_forward_kernel<N(), K(), T>, grid, gate_threads, 0, a, whole);
  });
  return true;
}

/// Queues the sums of the parts that so many blocks of each gate left, if any are wanted, beside what beside() queues.
template <class B, int N, int K, class T, class F>
void gather_parts(const GateBackward<T>& a, const Compute<T>* partial, const Compute<T>* partial_rest,
                  unsigned blocks, const F& beside) {
  bool wanted = false;
  for (int i = 0; i < a.gates; ++i) wanted = wanted || a.gate[i].dF || a.gate[i].dlog_tau || a.gate[i].dbias;
  const auto gather = [&] {
    if (wanted)
      launch_early(gate_gather_kernel<N, K, T>, dim3(K * quad * N + 2, static_cast<unsigned>(a.gates)),
                   dim3(32, gate_slices), 0, a, partial, partial_rest, static_cast<int>(blocks));
  };
  if constexpr (std::is_same_v<F, NothingBeside>) {
    gather();
  } else {
    Branch<B> branch;
    const bool forked = branch.begin(gather);
    beside();
    if (!forked) gather();
  }
}

/// Of Cuda::gate_backward.
template <class B, class T, class F>
bool launch_gate(const GateBackward<T>& a, const F& beside) {
  if (!gate_fits<T>(a.features, a.experts)) return false;
  const unsigned blocks = gate_blocks(a.rows, 2), gates = static_cast<unsigned>(a.gates);
  const bool whole = gate_whole(a, a.v, a.dp, a.dv);
  with_gate_extents<T>(a.features, a.experts, [&](auto N, auto K) {
    constexpr int entries = K() * quad * N();
    const Index parts = static_cast<Index>(blocks) * a.gates;
    const Buffer<Compute<T>, B> partial(parts * 32 * (entries + 1));
    Compute<T>* const partial_rest = partial.data() + parts * 32 * entries;
    if (blocks > 0)
      launch_early(gate_backward_kernel<N(), K(), T>, dim3(blocks, gates), gate_threads,
                   static_cast<std::size_t>(gate_shared<T>(N(), K())), a, whole, partial.data(),
                   partial_rest);
    gather_parts<B, N(), K()>(a, partial.data(), partial_rest, blocks, beside);
  });
  return true;
}

}  // namespace mole::detail
