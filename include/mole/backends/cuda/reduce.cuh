#pragma once
// Sums and maxima over the middle axis of [outer, n, inner], in a fixed order: the same bits every time.

#include <type_traits>

#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/core/backend.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/transform.hpp>

namespace mole::detail {

/// Elements of the axis that a block takes before the axis is cut for more of them: of neighbouring columns together,
/// and of a row.
inline constexpr Index reduce_chunk = 512, reduce_row_chunk = 8192;
/// Where a column has fewer, a thread adds it up by itself.
inline constexpr Index reduce_alone = 32;

template <class V>
struct ReduceSum {
  static __device__ V start() { return V(0); }
  static __device__ V combine(V a, V b) { return a + b; }
};
/// NaN wins.
template <class V>
struct ReduceMax {
  static __device__ V start() { return -std::numeric_limits<V>::infinity(); }
  static __device__ V combine(V a, V b) { return b > a || is_nan(b) ? b : a; }
};

/// y[o, c, i] = x[o, j, i] combined over the j of chunk c, a thread each.
template <class Op, class T, class V>
__global__ void reduce_columns_kernel(Index outer, Index n, Index inner, Index chunk, Index chunks,
                                      const T* x, V* y) {
  follow_earlier();
  const Index at = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= outer * chunks * inner) return;
  const Index i = at % inner, c = at / inner % chunks, o = at / inner / chunks;
  const Index first = c * chunk, last = first + chunk < n ? first + chunk : n;
  V total = Op::start();
  for (Index j = first; j < last; ++j) total = Op::combine(total, static_cast<V>(x[(o * n + j) * inner + i]));
  y[at] = total;
}

/// The same, by blocks of 256 threads: `columns` of them side by side, which divide 32, and the others share the chunk.
template <class Op, class T, class V>
__global__ void __launch_bounds__(256)
    reduce_shared_columns_kernel(Index n, Index inner, int columns, Index stretches, Index chunk,
                                 Index chunks, const T* x, V* y) {
  __shared__ V shared[256];
  follow_earlier();
  const int own = static_cast<int>(threadIdx.x) % columns, lane = static_cast<int>(threadIdx.x) / columns,
            lanes = 256 / columns;
  const Index i = blockIdx.x % stretches * columns + own, c = blockIdx.x / stretches % chunks,
              o = blockIdx.x / stretches / chunks;
  const Index first = c * chunk, last = first + chunk < n ? first + chunk : n;
  V total = Op::start();
  if (i < inner) {
    const T* const column = x + o * n * inner + i;
#pragma unroll 8
    for (Index j = first + lane; j < last; j += lanes)
      total = Op::combine(total, static_cast<V>(column[j * inner]));
  }
  shared[threadIdx.x] = total;
  for (int step = lanes / 2; step > 0; step /= 2) {
    __syncthreads();
    if (lane < step)
      shared[threadIdx.x] =
          Op::combine(shared[threadIdx.x], shared[static_cast<int>(threadIdx.x) + step * columns]);
  }
  if (lane == 0 && i < inner) y[(o * chunks + c) * inner + i] = shared[threadIdx.x];
}

/// y[o, c] = x[o, j] combined over the j of chunk c, a block each.
template <class Op, class T, class V>
__global__ void __launch_bounds__(256)
    reduce_row_kernel(Index n, Index chunk, Index chunks, const T* x, V* y) {
  __shared__ V shared[8];
  follow_earlier();
  const Index o = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
  const Index last = first + chunk < n ? first + chunk : n;
  const T* const row = x + o * n;
  V total = Op::start();
  for (Index j = first + threadIdx.x; j < last; j += 256) total = Op::combine(total, static_cast<V>(row[j]));
  for (int step = 16; step > 0; step /= 2)
    total = Op::combine(total, __shfl_xor_sync(0xffffffffu, total, step));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 8; ++w) total = Op::combine(total, shared[w]);
  y[blockIdx.x] = total;
}

/// y[o, i] = x[o, j, i] combined over j, in V = Compute<T>. B is the backend that owns the buffer pool.
template <class B, template <class> class Op, class T, class V>
void launch_reduce_wide(Index outer, Index n, Index inner, const T* x, V* y) {
  const Index results = outer * inner;
  constexpr int threads = 256;
  // Cut the axis where the results alone do not fill the device; the partial results are reduced in turn.
  Index chunk = inner == 1 ? reduce_row_chunk : reduce_chunk;
  while (chunk < n && results * ((n + chunk - 1) / chunk) > Index{1} << 20) chunk *= 2;
  const Index chunks = n <= chunk ? 1 : (n + chunk - 1) / chunk;
  auto reduce = [&](V* to) {
    if (inner == 1)
      return launch_early(reduce_row_kernel<Op<V>, T, V>, blocks_for(outer * chunks, 1), threads, 0, n, chunk,
                          chunks, x, to);
    if (n <= reduce_alone)
      return launch_early(reduce_columns_kernel<Op<V>, T, V>, blocks_for(results * chunks, threads), threads,
                          0, outer, n, inner, chunk, chunks, x, to);
    int columns = 2;
    while (columns < inner && columns < 32) columns *= 2;
    const Index stretches = (inner + columns - 1) / columns;
    launch_early(reduce_shared_columns_kernel<Op<V>, T, V>, blocks_for(outer * chunks * stretches, 1),
                 threads, 0, n, inner, columns, stretches, chunk, chunks, x, to);
  };
  if (chunks == 1) return reduce(y);
  const Buffer<V, B> partial(results * chunks);
  reduce(partial.data());
  launch_reduce_wide<B, Op>(outer, chunks, inner, partial.data(), y);
}

/// The same with the result stored as T.
template <class B, template <class> class Op, class T>
void launch_reduce(Index outer, Index n, Index inner, const T* x, T* y) {
  using V = Compute<T>;
  const Index results = outer * inner;
  if (results == 0) return;
  if constexpr (std::is_same_v<T, V>) {
    launch_reduce_wide<B, Op>(outer, n, inner, x, y);
  } else {
    const Buffer<V, B> wide(results);
    launch_reduce_wide<B, Op>(outer, n, inner, x, wide.data());
    transform<B>(results, functor::Identity{}, y, wide.data());
  }
}

}  // namespace mole::detail
