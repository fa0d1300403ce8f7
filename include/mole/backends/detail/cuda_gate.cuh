#pragma once
// The gate in one kernel each way: from the experts' h [rows, R] to the gate and the gated h; and back, with
// the gradients of F and tau summed over the rows in a fixed order. A warp takes a row, a lane every 32nd
// feature; F lies in shared memory, transposed.

#include <algorithm>

#include <mole/backends/detail/cuda_rows.cuh>
#include <mole/core/buffer.hpp>
#include <mole/core/fused.hpp>

namespace mole::detail {

inline constexpr int gate_warps = 8, gate_threads = 32 * gate_warps;
/// Shared memory a block may have without asking for more.
inline constexpr Index gate_shared_bytes = 48 * 1024;
/// Entries of dF that a thread sums up.
inline constexpr int gate_entries = 8;

/// The sum of each value over the warp, known to all lanes. Halves the values with each exchange while there
/// are several, then hands the sums round: 2 N + 4 exchanges or fewer where plain sums take 5 N.
template <int N, class V>
__device__ void sum_over_warp(V (&values)[N], int lane) {
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
  for (; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = __shfl_sync(0xffffffffu, total, i * (32 / N));
}

template <class V>
__device__ V sum_over_warp(V value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

/// F [features, experts] to shared memory as [N][features], the missing experts zero.
template <int N, class T, class V>
__device__ void load_transposed(const T* F, int features, int experts, V* to) {
  for (int at = threadIdx.x; at < features * experts; at += gate_threads)
    to[at % experts * features + at / experts] = static_cast<V>(F[at]);
  for (int at = features * experts + threadIdx.x; at < features * N; at += gate_threads) to[at] = V(0);
  __syncthreads();
}

template <int N, class T>
__global__ void __launch_bounds__(gate_threads) gate_forward_kernel(GateForward<T> a) {
  using V = Compute<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int features = static_cast<int>(a.features), experts = static_cast<int>(a.experts);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  V *const F = reinterpret_cast<V*>(shared), *const gates = F + N * features + warp * N;
  load_transposed<N>(a.F, features, experts, F);
  const V inverse_tau = exp(-static_cast<V>(*a.log_tau)), lowest = -std::numeric_limits<V>::infinity();
  const Index step = static_cast<Index>(gridDim.x) * gate_warps;
  for (Index row = static_cast<Index>(blockIdx.x) * gate_warps + warp; row < a.rows; row += step) {
    const T* const v = a.v + row * features;
    V sums[N] = {}, squares = 0;
    for (int j = lane; j < features; j += 32) {
      const V x = static_cast<V>(v[j]);
#pragma unroll
      for (int i = 0; i < N; ++i) sums[i] += x * F[i * features + j];
      squares += x * x;
    }
    sum_over_warp(sums, lane);
    const V length = std::sqrt(sum_over_warp(squares)), size = length > a.eps ? length : a.eps;
    V top = lowest;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const bool kept = i < experts && (!a.keep || static_cast<V>(a.keep[i]) != V(0));
      sums[i] = kept ? sums[i] / size * inverse_tau : lowest;
      top = sums[i] > top ? sums[i] : top;
    }
    V total = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) total += sums[i] = sums[i] == lowest ? V(0) : exp(sums[i] - top);
    const V inverse = total > V(0) ? V(1) / total : V(0);
    V mine = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) mine = lane == i ? sums[i] * inverse : mine;
    if (lane < experts) a.g[row * experts + lane] = static_cast<T>(mine);
    if (lane == 0) a.norm[row] = size;
    if (!a.p) continue;
    // As rounded for storage: the backward pass will read these very weights.
    if (lane < N) gates[lane] = static_cast<V>(static_cast<T>(mine));
    __syncwarp();
    T* const p = a.p + row * features;
    for (int j = lane; j < features; j += 32)
      p[j] = static_cast<T>(static_cast<V>(v[j]) * gates[a.expert[j]]);
    __syncwarp();
  }
}

/// dv of every row; and of the block's rows together, in `partial` [blocks, N * features + 1], dF transposed
/// and dlog_tau.
template <int N, class T>
__global__ void __launch_bounds__(gate_threads) gate_backward_kernel(GateBackward<T> a, Compute<T>* partial) {
  using V = Compute<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int features = static_cast<int>(a.features), experts = static_cast<int>(a.experts);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, entries = N * features;
  V *const F = reinterpret_cast<V*>(shared), *const rows = F + entries,
           *const slopes = rows + gate_warps * features, *const gates = slopes + gate_warps * N + warp * N,
           *const tau_sums = slopes + 2 * gate_warps * N;
  load_transposed<N>(a.F, features, experts, F);
  const V inverse_tau = exp(-static_cast<V>(*a.log_tau));
  V dF[gate_entries] = {}, dlog_tau = 0;
  const Index step = static_cast<Index>(gridDim.x) * gate_warps;
  for (Index first = static_cast<Index>(blockIdx.x) * gate_warps; first < a.rows; first += step) {
    const Index row = first + warp;
    const bool real = row < a.rows;
    const T* const v = a.v + row * features;
    const T* const dp = a.dp ? a.dp + row * features : nullptr;
    V d[N] = {};  // the gradient of g, then of the logits over |v|
    for (int j = lane; j < features; j += 32) {
      const V x = real ? static_cast<V>(v[j]) : V(0);
      rows[warp * features + j] = x;
      if (!dp || !real) continue;
      const V product = static_cast<V>(dp[j]) * x;
      const int of = static_cast<int>(a.expert[j]);
#pragma unroll
      for (int i = 0; i < N; ++i) d[i] += of == i ? product : V(0);
    }
    if (dp) sum_over_warp(d, lane);
    const V size = real ? a.norm[row] : V(1);
    V g[N], dot = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const bool there = real && i < experts;
      g[i] = there ? static_cast<V>(a.g[row * experts + i]) : V(0);
      if (a.dg && there) d[i] += static_cast<V>(a.dg[row * experts + i]);
      dot += g[i] * d[i];
    }
    // The logits are ln g up to a constant, which the softmax's gradient, summing to zero, does not see.
    V along = 0, mine = 0, weight = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const V ds = g[i] * (d[i] - dot);
      along += g[i] > V(0) ? ds * std::log(g[i]) : V(0);
      d[i] = ds * inverse_tau / size;
      mine = lane == i ? d[i] : mine;
      weight = lane == i ? g[i] : weight;
    }
    dlog_tau -= along;
    if (lane < N) {
      slopes[warp * N + lane] = mine;
      gates[lane] = weight;
    }
    __syncthreads();
    if (a.dv && real) {
      const V pull = size > a.eps ? along / (size * size) : V(0);
      T* const dv = a.dv + row * features;
      for (int j = lane; j < features; j += 32) {
        V total = -pull * rows[warp * features + j];
#pragma unroll
        for (int i = 0; i < N; ++i) total += d[i] * F[i * features + j];
        if (dp) total += gates[a.expert[j]] * static_cast<V>(dp[j]);
        if (a.add_dv) total += static_cast<V>(dv[j]);
        dv[j] = static_cast<T>(total);
      }
    }
    if (a.dF) {
#pragma unroll
      for (int k = 0; k < gate_entries; ++k) {
        const int entry = threadIdx.x + k * gate_threads;
        if (entry >= entries) break;
        const int i = entry / features, j = entry % features;
#pragma unroll
        for (int w = 0; w < gate_warps; ++w) dF[k] += rows[w * features + j] * slopes[w * N + i];
      }
    }
    __syncthreads();
  }
  V* const to = partial + static_cast<Index>(blockIdx.x) * (entries + 1);
#pragma unroll
  for (int k = 0; k < gate_entries; ++k)
    if (const int entry = threadIdx.x + k * gate_threads; a.dF && entry < entries) to[entry] = dF[k];
  if (lane == 0) tau_sums[warp] = dlog_tau;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < gate_warps; ++w) dlog_tau += tau_sums[w];
  to[entries] = dlog_tau;
}

/// dF and dlog_tau from the blocks' parts, in their order.
template <int N, class T>
__global__ void __launch_bounds__(128)
    gate_gather_kernel(GateBackward<T> a, const Compute<T>* partial, int blocks) {
  using V = Compute<T>;
  const int features = static_cast<int>(a.features), entries = N * features;
  const int entry = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (entry > entries) return;
  const int i = entry / features, j = entry % features;
  const bool wanted = entry == entries ? a.dlog_tau != nullptr : a.dF != nullptr && i < a.experts;
  if (!wanted) return;
  V total = 0;
#pragma unroll 8
  for (int block = 0; block < blocks; ++block)
    total += partial[static_cast<Index>(block) * (entries + 1) + entry];
  T* const to = entry == entries ? a.dlog_tau : a.dF + j * a.experts + i;
  if (entry < entries && a.add_dF) total += static_cast<V>(*to);
  *to = static_cast<T>(total);
}

/// The kernels' N for a number of experts; 0 where there is none.
inline int gate_width(Index experts) {
  return experts <= 4 ? 4 : experts <= 8 ? 8 : experts <= 16 ? 16 : experts <= 32 ? 32 : 0;
}

/// Whether there are kernels for a gate of these extents.
template <class T>
bool gate_fits(Index features, Index experts) {
  const Index N = gate_width(experts);
  const Index scalars = N * features + gate_warps * (features + 2 * N + 1);
  return N > 0 && N * features <= gate_entries * gate_threads &&
         scalars * static_cast<Index>(sizeof(Compute<T>)) <= gate_shared_bytes;
}

inline unsigned gate_blocks(Index rows) {
  return static_cast<unsigned>(
      std::min<Index>((rows + gate_warps - 1) / gate_warps, Index{2} * cuda_context().processors));
}

template <int N, class B, class T>
void launch_gate(const GateForward<T>& a) {
  if (a.rows == 0) return;
  const auto bytes = static_cast<std::size_t>(N * (a.features + gate_warps)) * sizeof(Compute<T>);
  gate_forward_kernel<N><<<gate_blocks(a.rows), gate_threads, bytes, cuda_context().stream>>>(a);
  MOLE_CUDA_CHECK(cudaGetLastError());
}

/// B is the backend that owns the buffer pool of intermediate results.
template <int N, class B, class T>
void launch_gate(const GateBackward<T>& a) {
  const auto stream = cuda_context().stream;
  const unsigned blocks = gate_blocks(a.rows);
  const int entries = N * static_cast<int>(a.features);
  const Buffer<Compute<T>, B> partial(static_cast<Index>(blocks) * (entries + 1));
  const auto bytes =
      static_cast<std::size_t>(entries + gate_warps * (a.features + 2 * N + 1)) * sizeof(Compute<T>);
  if (blocks > 0) gate_backward_kernel<N><<<blocks, gate_threads, bytes, stream>>>(a, partial.data());
  MOLE_CUDA_CHECK(cudaGetLastError());
  if (!a.dF && !a.dlog_tau) return;
  gate_gather_kernel<N>
      <<<blocks_for(entries + 1, 128), 128, 0, stream>>>(a, partial.data(), static_cast<int>(blocks));
  MOLE_CUDA_CHECK(cudaGetLastError());
}

/// A is GateForward or GateBackward; false where there is no kernel for its extents.
template <class B, template <class> class A, class T>
bool launch_gate(const A<T>& a) {
  if (!gate_fits<T>(a.features, a.experts)) return false;
  switch (gate_width(a.experts)) {
    case 4:
      launch_gate<4, B>(a);
      break;
    case 8:
      launch_gate<8, B>(a);
      break;
    case 16:
      launch_gate<16, B>(a);
      break;
    default:
      launch_gate<32, B>(a);
  }
  return true;
}

}  // namespace mole::detail
