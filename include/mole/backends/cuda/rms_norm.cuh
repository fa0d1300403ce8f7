#pragma once
// RMS norm of rows, and of the sum of two: a block has a row, and keeps it in registers between its two passes.

#include <cmath>
#include <type_traits>

#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/kernels/rms_norm.hpp>

namespace mole::detail {

/// Threads of a block at most.
inline constexpr int rms_norm_threads = 1024;

/// A thread has every blockDim.x-th pack of a row, up to Packs of them.
template <int Packs, class T>
__global__ void __launch_bounds__(rms_norm_threads)
    rms_norm_kernel(const __grid_constant__ RmsNormForward<T> a) {
  using V = Compute<T>;
  constexpr int size = Pack<T>::size;
  __shared__ V parts[rms_norm_threads / 32];
  follow_earlier();
  const Index row = blockIdx.x * a.n;
  const int step = static_cast<int>(blockDim.x) * size, first = static_cast<int>(threadIdx.x) * size;
  V x[Packs][size] = {}, w[Packs][size] = {}, squares = 0;
#pragma unroll
  for (int p = 0; p < Packs; ++p) {
    const int k = p * step + first;
    if (k >= a.n) break;
    numbers_of<T>(load_bits(a.x + row + k), x[p]);
    numbers_of<T>(load_bits(a.w + k), w[p]);
    if (a.d) {
      V d[size];
      numbers_of<T>(load_bits(a.d + row + k), d);
#pragma unroll
      for (int e = 0; e < size; ++e) x[p][e] = static_cast<V>(static_cast<T>(x[p][e] + d[e]));
      store_pack(a.sum + row + k, x[p]);
    }
#pragma unroll
    for (int e = 0; e < size; ++e) squares += x[p][e] * x[p][e];
  }
  squares = sum_over_warp(squares);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) parts[warp] = squares;
  __syncthreads();
  const V total = sum_over_warp(lane < static_cast<int>(blockDim.x) / 32 ? parts[lane] : V(0));
  const V s = std::sqrt(total / static_cast<V>(a.n) + a.eps);
  if (threadIdx.x == 0) a.size[blockIdx.x] = s;
#pragma unroll
  for (int p = 0; p < Packs; ++p) {
    const int k = p * step + first;
    if (k >= a.n) break;
    V y[size];
#pragma unroll
    for (int e = 0; e < size; ++e) y[e] = x[p][e] / s * w[p][e];
    store_pack(a.y + row + k, y);
  }
}

/// Of Cuda::rms_norm_forward.
template <class T>
bool launch_rms_norm(const RmsNormForward<T>& a) {
  constexpr Index most = 4 * rms_norm_threads;
  const Index packs = a.n / Pack<T>::size;
  if (packs == 0 || packs > most || a.rows <= 0 || !whole_packs({a.x, a.d, a.w, a.sum, a.y}, {a.n}))
    return false;
  const auto launch = [&](auto each) {
    const auto threads = static_cast<unsigned>(((packs + each() - 1) / each() + 31) / 32 * 32);
    launch_early(rms_norm_kernel<each(), T>, blocks_for(a.rows, 1), threads, 0, a);
  };
  if (packs <= rms_norm_threads)
    launch(std::integral_constant<int, 1>());
  else
    launch(std::integral_constant<int, 4>());
  return true;
}

}  // namespace mole::detail
