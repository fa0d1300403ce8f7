#pragma once
// Elementwise and row kernels: any functor of an op, run by a thread an element or by 8 threads, a warp or a
// block a row.

#include <limits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// One row on the device: `Lanes` threads share it, each takes every Lanes-th element. each() ends in a
/// barrier, so that what one thread wrote another may read next.
template <int Lanes>
class CudaRow {
 public:
  __device__ CudaRow(Index index, int lane) : index_(index), lane_(lane) {}

  MOLE_HD Index index() const { return index_; }

  template <class F>
  MOLE_HD void each(Index n, F f) const {
#ifdef __CUDA_ARCH__
    for (Index j = lane_; j < n; j += Lanes) f(j);
    wait();
#endif
  }

  template <class F>
  MOLE_HD auto sum(Index n, F f) const {
    using V = decltype(f(Index{}));
    V total = 0;
#ifdef __CUDA_ARCH__
    for (Index j = lane_; j < n; j += Lanes) total += f(j);
    total = combine(total, [](V a, V b) { return a + b; });
#endif
    return total;
  }

  template <class F>
  MOLE_HD auto max(Index n, F f) const {
    using V = decltype(f(Index{}));
    V best = -std::numeric_limits<V>::infinity();
#ifdef __CUDA_ARCH__
    for (Index j = lane_; j < n; j += Lanes) {
      const V v = f(j);
      best = v > best ? v : best;
    }
    best = combine(best, [](V a, V b) { return b > a ? b : a; });
#endif
    return best;
  }

 private:
#ifdef __CUDA_ARCH__
  static constexpr int width = Lanes < 32 ? Lanes : 32;

  /// The threads of the warp that share this row.
  __device__ unsigned group() const {
    if constexpr (Lanes >= 32)
      return 0xffffffffu;
    else
      return ((1u << width) - 1u) << (threadIdx.x % 32 / width * width);
  }

  __device__ void wait() const {
    if constexpr (Lanes > 32)
      __syncthreads();
    else
      __syncwarp(group());
  }

  /// All threads' values in one, known to all.
  template <class V, class F>
  __device__ V combine(V value, F f) const {
    value = combine_lanes<width>(value, f);
    if constexpr (Lanes > 32) {
      constexpr int warps = Lanes / 32;
      __shared__ V shared[warps];
      __syncthreads();  // the values of an earlier call have been read
      if (lane_ % 32 == 0) shared[lane_ / 32] = value;
      __syncthreads();
      value = combine_lanes<warps>(shared[lane_ % warps], f);
    }
    return value;
  }
  /// The values of each n neighbouring lanes in one, known to them.
  template <int n, class V, class F>
  __device__ V combine_lanes(V value, F f) const {
    for (int step = n / 2; step > 0; step /= 2) value = f(value, __shfl_xor_sync(group(), value, step));
    return value;
  }
#endif

  Index index_;
  int lane_;
};

template <class F>
__global__ void each_kernel(Index n, F f) {
  follow_earlier();
  const Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) f(i);
}

template <int Lanes, class F>
__global__ void __launch_bounds__(Lanes > 32 ? Lanes : 128) rows_kernel(Index rows, F f) {
  follow_earlier();
  const int rows_a_block = static_cast<int>(blockDim.x) / Lanes;
  const Index row = static_cast<Index>(blockIdx.x) * rows_a_block + static_cast<int>(threadIdx.x) / Lanes;
  if (row < rows) f(CudaRow<Lanes>(row, static_cast<int>(threadIdx.x) % Lanes));
}

/// A grid's extent. Throws DeviceError beyond what a launch can count.
inline unsigned blocks_for(Index items, Index a_block) {
  const Index blocks = (items + a_block - 1) / a_block;
  MOLE_CHECK_AS(DeviceError, blocks <= std::numeric_limits<int>::max(), "cuda:", items,
                "items are more than one launch can take");
  return static_cast<unsigned>(blocks);
}

template <class F>
void launch_each(Index n, const F& f) {
  if (n <= 0) return;
  constexpr int threads = 256;
  launch_early(each_kernel<F>, blocks_for(n, threads), threads, 0, n, f);
}

template <int Lanes, class F>
void launch_rows_with(Index rows, const F& f) {
  constexpr int threads = Lanes > 32 ? Lanes : 128;
  launch_early(rows_kernel<Lanes, F>, blocks_for(rows, threads / Lanes), threads, 0, rows, f);
}

/// f(row) for each row of about n elements. Few rows get more threads each: there is room for them, and a thread of few
/// elements waits for memory fewer times.
template <class F>
void launch_rows(Index rows, Index n, const F& f) {
  constexpr Index enough = 1024;  // threads that keep a multiprocessor busy
  if (rows <= 0) return;
  if (n <= 16)
    launch_rows_with<8>(rows, f);
  else if (n <= 64 || (n <= 512 && 32 * rows >= enough * cuda_context().processors))
    launch_rows_with<32>(rows, f);
  else if (n <= 1024)
    launch_rows_with<128>(rows, f);
  else if (n <= 2048 || rows > cuda_context().processors)
    launch_rows_with<256>(rows, f);
  else
    launch_rows_with<1024>(rows, f);
}

}  // namespace mole::detail
