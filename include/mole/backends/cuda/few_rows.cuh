#pragma once
// Products of a few rows, as a decoder's steps are. Each weight is read once and used for all rows at once: what takes time
// is reading the weights, so they are asked for while the kernel ahead still runs. Sums are in float (double for double), in
// an order that the extents alone fix.

#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/prefetch.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/gemm.hpp>
#include <mole/core/kernels/gated_ranks.hpp>
#include <mole/core/kernels/two_products.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

/// More rows are cuBLAS's: its matrix units then read no slower.
inline constexpr int most_few_rows = 8;
inline constexpr int few_rows_threads = 256;

/// sum[j] += the part of a_j . b that begins at `first` and goes on every `step` packs. a_j: row j of rows `stride` apart;
/// rows that are not there are those of the last one.
template <int Rows, class T>
__device__ __forceinline__ void add_dots(Compute<T> (&sum)[Rows], const T* a, Index stride, int rows,
                                         const T* b, Index inner, int first, int step) {
  constexpr int n = Pack<T>::size, ahead = 4;  // loads of b in flight
  for (Index k = static_cast<Index>(first) * n; k < inner; k += static_cast<Index>(step) * n * ahead) {
    Pack<T> of_b[ahead];
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const Index at = k + static_cast<Index>(u) * step * n;
      if (at < inner) of_b[u] = load_pack(b + at);
    }
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      const Index at = k + static_cast<Index>(u) * step * n;
      if (at >= inner) break;
#pragma unroll
      for (int j = 0; j < Rows; ++j) {
        const auto of_a = load_pack(a + min(j, rows - 1) * stride + at);
#pragma unroll
        for (int e = 0; e < n; ++e)
          sum[j] += static_cast<Compute<T>>(of_a.values[e]) * static_cast<Compute<T>>(of_b[u].values[e]);
      }
    }
  }
}

/// TwoProducts of up to Rows rows, where B0 and B1 are [columns, inner]: a warp a column of D_i, i = blockIdx.y.
template <int Rows, class T>
__global__ void __launch_bounds__(few_rows_threads)
    few_rows_products(const __grid_constant__ TwoProducts<T> a) {
  const int lane = threadIdx.x % 32, i = blockIdx.y, rows = static_cast<int>(a.rows);
  const Index column = static_cast<Index>(blockIdx.x) * (few_rows_threads / 32) + threadIdx.x / 32;
  const T *const b0 = a.b0 + (i * a.columns + column) * a.inner0, *const b1 =
                                                                      a.b1 +
                                                                      (i * a.columns + column) * a.inner1;
  if (column < a.columns) {
    prefetch(b0, a.inner0 * static_cast<Index>(sizeof(T)), lane, 32);
    prefetch(b1, a.inner1 * static_cast<Index>(sizeof(T)), lane, 32);
  }
  follow_earlier();
  if (column >= a.columns) return;
  Compute<T> sum[Rows] = {};
  add_dots<Rows>(sum, a.a0, a.inner0, rows, b0, a.inner0, lane, 32);
  add_dots<Rows>(sum, a.a1 + i * a.inner1, a.stride1, rows, b1, a.inner1, lane, 32);
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
    Compute<T> d = sum_over_warp(sum[j]);
    if (lane != 0 || j >= rows) continue;
    T* const to = a.d + (i * a.rows + j) * a.columns + column;
    if (a.c[i]) d += static_cast<Compute<T>>(a.c[i][column]);
    if (a.add) d += static_cast<Compute<T>>(*to);
    *to = static_cast<T>(d);
  }
}

/// GatedRanks of up to Rows rows: a block a rank.
template <int Rows, class T>
__global__ void __launch_bounds__(few_rows_threads) few_rows_ranks(const __grid_constant__ GatedRanks<T> a) {
  constexpr int warps = few_rows_threads / 32;
  __shared__ Compute<T> parts[warps][Rows];
  const int rank = static_cast<int>(blockIdx.x), rows = static_cast<int>(a.rows);
  prefetch(a.A + rank * a.d_in, a.d_in * static_cast<Index>(sizeof(T)), static_cast<int>(threadIdx.x),
           few_rows_threads);
  follow_earlier();
  Compute<T> sum[Rows] = {};
  add_dots<Rows>(sum, a.x, a.d_in, rows, a.A + rank * a.d_in, a.d_in, static_cast<int>(threadIdx.x),
                 few_rows_threads);
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
    const Compute<T> part = sum_over_warp(sum[j]);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][j] = part;
  }
  __syncthreads();
  const int j = static_cast<int>(threadIdx.x);
  if (j >= rows) return;
  Compute<T> h = 0;
  for (int w = 0; w < warps; ++w) h += parts[w][j];
  a.p[j * a.ranks + rank] =
      static_cast<T>(h * static_cast<Compute<T>>(a.g[j / a.rows_per_gate * a.experts + a.column[rank]]));
}

template <class T>
bool few_rows_fit(const TwoProducts<T>& a) {
  return a.rows > 0 && a.rows <= most_few_rows && !a.across && a.columns > 0 && a.columns < Index{1} << 30 &&
         whole_packs({a.a0, a.b0, a.a1, a.b1}, {a.inner0, a.inner1, a.stride1});
}
template <class T>
bool few_rows_fit(const GatedRanks<T>& a) {
  return a.rows > 0 && a.rows <= most_few_rows && a.ranks > 0 && a.ranks < Index{1} << 30 &&
         whole_packs({a.x, a.A}, {a.d_in});
}

/// f(std::integral_constant<int, Rows>) of the smallest kernel that takes so many rows.
template <class F>
void with_few_rows(Index rows, const F& f) {
  if (rows <= 1) return f(std::integral_constant<int, 1>());
  if (rows <= 4) return f(std::integral_constant<int, 4>());
  f(std::integral_constant<int, most_few_rows>());
}

template <class T>
void launch_few_rows(const TwoProducts<T>& a) {
  constexpr int columns = few_rows_threads / 32;
  const dim3 blocks(static_cast<unsigned>((a.columns + columns - 1) / columns),
                    static_cast<unsigned>(a.count));
  with_few_rows(
      a.rows, [&](auto rows) { launch_early(few_rows_products<rows(), T>, blocks, few_rows_threads, 0, a); });
}

template <class T>
void launch_few_rows(const GatedRanks<T>& a) {
  with_few_rows(a.rows, [&](auto rows) {
    launch_early(few_rows_ranks<rows(), T>, static_cast<unsigned>(a.ranks), few_rows_threads, 0, a);
  });
}

/// How many rows of a single product are taken, and how large its W must be.
inline constexpr Index most_product_rows = 4, least_product_bytes = Index{1} << 18;

/// C (+)= A W^T of up to four rows and a large W by the kernel above; false, and nothing is done, for any other product. By
/// cuBLAS a decoder's products take longer: its kernels do not begin early.
template <class T>
bool product_of_few_rows(const Gemm& g, const T* a, const T* w, T* c) {
  const bool plain = !g.transpose_a && g.transpose_b && g.alpha == 1 && (g.beta == 0 || g.beta == 1) &&
                     g.batch[0] == 1 && g.batch[1] == 1 && g.lda == g.k && g.ldb == g.k && g.ldc == g.n;
  if (!plain || g.m > most_product_rows || g.n * g.k * static_cast<Index>(sizeof(T)) < least_product_bytes)
    return false;
  TwoProducts<T> one{.a0 = a,
                     .b0 = w,
                     .a1 = a,
                     .b1 = w,
                     .d = c,
                     .rows = g.m,
                     .columns = g.n,
                     .inner0 = g.k,
                     .inner1 = 0,
                     .stride1 = 0,
                     .add = g.beta == 1};
  const bool fit = few_rows_fit(one);
  if (fit) launch_few_rows(one);
  return fit;
}

}  // namespace mole::detail
