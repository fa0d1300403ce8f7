#pragma once
// Products of a few rows, as a decoder's steps are. Each weight is read once and used for all rows at once: what takes time
// is reading the weights. Sums are in float (double for double), in an order that the extents alone fix.

#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/gemm.hpp>
#include <mole/core/kernels/gated_ranks.hpp>
#include <mole/core/kernels/two_products.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

/// More rows are cuBLAS's: its matrix units then read no slower.
inline constexpr int most_few_rows = 8;
inline constexpr int few_rows_threads = 256;
/// Columns that a block takes together, and blocks that a multiprocessor holds at least: too few have not enough reads under
/// way.
template <int Rows>
inline constexpr int few_rows_columns = Rows == 1 ? 4 : 2;
template <int Rows>
inline constexpr int few_rows_blocks = Rows == 1 ? 4 : 3;

/// sum[c][j] += this thread's part of a_j . b_c, the packs of its number and every few_rows_threads on. a_j: row j of rows
/// `stride` apart, b_c: row c of rows `inner` apart. Rows that are not there are those of the last one.
template <int Columns, int Rows, class T>
__device__ __forceinline__ void add_dots(Compute<T> (&sum)[Columns][Rows], const T* a, Index stride, int rows,
                                         const T* b, Index inner, int columns) {
  constexpr int n = Pack<T>::size, ahead = 2, step = few_rows_threads * n;
  for (Index k = static_cast<Index>(threadIdx.x) * n; k < inner; k += Index{step} * ahead) {
    uint4 of_b[ahead][Columns];
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int c = 0; c < Columns; ++c)
        if (k + u * step < inner) of_b[u][c] = load_bits(b + min(c, columns - 1) * inner + k + u * step);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      if (k + u * step >= inner) break;
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
        Compute<T> w[n];
        numbers_of<T>(of_b[u][c], w);
#pragma unroll
        for (int j = 0; j < Rows; ++j) {
          Compute<T> x[n];
          numbers_of<T>(load_bits(a + min(j, rows - 1) * stride + k + u * step), x);
#pragma unroll
          for (int e = 0; e < n; ++e) sum[c][j] += x[e] * w[e];
        }
      }
    }
  }
}

/// The sums of all threads of a block: entry i of the list, as thread i finds it.
template <int Columns, int Rows, class V>
__device__ __forceinline__ V sum_over_block(const V (&sum)[Columns][Rows]) {
  constexpr int warps = few_rows_threads / 32;
  __shared__ V parts[warps][Columns * Rows];
#pragma unroll
  for (int c = 0; c < Columns; ++c)
#pragma unroll
    for (int j = 0; j < Rows; ++j) {
      const V part = sum_over_warp(sum[c][j]);
      if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][c * Rows + j] = part;
    }
  __syncthreads();
  V total = 0;
  if (threadIdx.x < Columns * Rows)
    for (int w = 0; w < warps; ++w) total += parts[w][threadIdx.x];
  return total;
}

/// TwoProducts of up to Rows rows, where B0 and B1 are [columns, inner]: a block some columns of D_i, i = blockIdx.y.
template <int Rows, class T>
__global__ void __launch_bounds__(few_rows_threads, few_rows_blocks<Rows>)
    few_rows_products(const __grid_constant__ TwoProducts<T> a) {
  constexpr int most = few_rows_columns<Rows>;
  const int i = blockIdx.y, rows = static_cast<int>(a.rows);
  const Index first = static_cast<Index>(blockIdx.x) * most, at = i * a.columns + first;
  const int columns = static_cast<int>(min(a.columns - first, Index{most}));
  follow_earlier();
  Compute<T> sum[most][Rows] = {};
  add_dots(sum, a.a0, a.inner0, rows, a.b0 + at * a.inner0, a.inner0, columns);
  add_dots(sum, a.a1 + i * a.inner1, a.stride1, rows, a.b1 + at * a.inner1, a.inner1, columns);
  Compute<T> d = sum_over_block(sum);
  const int c = static_cast<int>(threadIdx.x) / Rows, j = static_cast<int>(threadIdx.x) % Rows;
  if (c >= columns || j >= rows) return;
  T* const to = a.d + (i * a.rows + j) * a.columns + first + c;
  if (a.c[i]) d += static_cast<Compute<T>>(a.c[i][first + c]);
  if (a.add) d += static_cast<Compute<T>>(*to);
  *to = static_cast<T>(d);
}

/// GatedRanks of up to Rows rows: a block a rank.
template <int Rows, class T>
__global__ void __launch_bounds__(few_rows_threads) few_rows_ranks(const __grid_constant__ GatedRanks<T> a) {
  follow_earlier();
  const int rank = static_cast<int>(blockIdx.x), rows = static_cast<int>(a.rows);
  Compute<T> sum[1][Rows] = {};
  add_dots(sum, a.x, a.d_in, rows, a.A + rank * a.d_in, a.d_in, 1);
  const Compute<T> h = sum_over_block(sum);
  const int j = static_cast<int>(threadIdx.x);
  if (j >= rows) return;
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
  with_few_rows(a.rows, [&](auto rows) {
    const Index a_block = few_rows_columns<rows()>;
    const dim3 blocks(static_cast<unsigned>((a.columns + a_block - 1) / a_block),
                      static_cast<unsigned>(a.count));
    launch_early(few_rows_products<rows(), T>, blocks, few_rows_threads, 0, a);
  });
}
template <class T>
void launch_few_rows(const GatedRanks<T>& a) {
  with_few_rows(a.rows, [&](auto rows) {
    launch_early(few_rows_ranks<rows(), T>, static_cast<unsigned>(a.ranks), few_rows_threads, 0, a);
  });
}

/// How large the W of a single product must be.
inline constexpr Index least_product_bytes = Index{1} << 18;

/// C (+)= x W^T of one row and a large W by the kernel above; false, and nothing is done, for any other product. On an H200
/// cuBLAS takes 1.12 to 1.21 times as long over a row of 4096 or 11008 numbers in bf16; over two to four rows less.
template <class T>
bool product_of_a_row(const Gemm& g, const T* x, const T* w, T* c) {
  const bool plain = !g.transpose_a && g.transpose_b && g.alpha == 1 && (g.beta == 0 || g.beta == 1) &&
                     g.m == 1 && g.batch[0] == 1 && g.batch[1] == 1 && g.ldb == g.k;
  if (!plain || g.n * g.k * static_cast<Index>(sizeof(T)) < least_product_bytes) return false;
  // The second product has no inner extent: nothing of it is read.
  TwoProducts<T> one{.a0 = x,
                     .b0 = w,
                     .a1 = x,
                     .b1 = w,
                     .d = c,
                     .rows = 1,
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
