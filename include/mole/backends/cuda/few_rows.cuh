#pragma once
// Products of a few rows, as a decoder's steps are. Each weight is read once and used for all rows at once: what takes time
// is reading the weights. Sums are in float (double for double), in an order that the extents alone fix.

#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/layer_blocks.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/warp.cuh>
#include <mole/core/gemm.hpp>
#include <mole/core/kernels/row_layers.hpp>
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

/// The b of add_dots() that a thread reads at a time.
template <int Columns, class T>
struct FewRowsPacks {
  static constexpr int n = Pack<T>::size, ahead = 2, step = few_rows_threads * n;
  uint4 of[ahead][Columns];

  /// From column k of `columns` rows, `inner` apart, on.
  __device__ __forceinline__ void load(const T* b, Index inner, int columns, Index k) {
#pragma unroll
    for (int u = 0; u < ahead; ++u)
#pragma unroll
      for (int c = 0; c < Columns; ++c)
        if (k + u * step < inner) of[u][c] = load_bits(b + min(c, columns - 1) * inner + k + u * step);
  }
};

/// sum[c][j] += this thread's part of a_j . b_c, the packs of its number and every few_rows_threads on. a_j: row j of rows
/// `stride` apart, b_c: row c of rows `inner` apart. Rows that are not there are those of the last one. ready(): called once
/// the first of b are on their way, and before a is read.
template <int Columns, int Rows, class T, class F>
__device__ __forceinline__ void add_dots(Compute<T> (&sum)[Columns][Rows], const T* a, Index stride, int rows,
                                         const T* b, Index inner, int columns, const F& ready) {
  using Packs = FewRowsPacks<Columns, T>;
  constexpr int n = Packs::n, ahead = Packs::ahead, step = Packs::step;
  const Index first = static_cast<Index>(threadIdx.x) * n;
  Packs packs;
  packs.load(b, inner, columns, first);
  ready();
  for (Index k = first; k < inner; k += Index{step} * ahead) {
    if (k != first) packs.load(b, inner, columns, k);
#pragma unroll
    for (int u = 0; u < ahead; ++u) {
      if (k + u * step >= inner) break;
#pragma unroll
      for (int c = 0; c < Columns; ++c) {
        Compute<T> w[n];
        numbers_of<T>(packs.of[u][c], w);
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

/// sum[c] += this thread's part of p . Q_c, for one row: of one column c, by packs. Called while the packs of W are on their
/// way, so that it costs no time of its own.
template <int Columns, class T>
__device__ __forceinline__ void add_ranks(Compute<T> (&sum)[Columns][1], const T* p, const T* q, Index ranks,
                                          int columns) {
  constexpr int n = Pack<T>::size, each = few_rows_threads / Columns;
  const int mine = static_cast<int>(threadIdx.x) / each;
  if (mine >= columns) return;
  Compute<T> part = 0;
  for (Index k = static_cast<Index>(threadIdx.x) % each * n; k < ranks; k += each * n) {
    Compute<T> w[n], x[n];
    numbers_of<T>(load_bits(q + mine * ranks + k), w);
    numbers_of<T>(load_bits(p + k), x);
#pragma unroll
    for (int e = 0; e < n; ++e) part += x[e] * w[e];
  }
#pragma unroll
  for (int c = 0; c < Columns; ++c)
    if (c == mine) sum[c][0] += part;
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

/// Blocks of a layer's columns, or of its ranks.
template <int Rows>
struct BlocksOfColumns {
  template <class L>
  MOLE_HD Index operator()(const L& layer) const {
    return (layer.d_out + few_rows_columns<Rows> - 1) / few_rows_columns<Rows>;
  }
};
struct BlocksOfRanks {
  template <class L>
  MOLE_HD Index operator()(const L& layer) const {
    return layer.ranks;
  }
};

/// RowProducts of up to Rows rows: a block some columns of a y_i.
template <int Rows, class T>
__global__ void __launch_bounds__(few_rows_threads, few_rows_blocks<Rows>)
    few_rows_products(const __grid_constant__ RowProducts<T> a) {
  constexpr int most = few_rows_columns<Rows>;
  const int rows = static_cast<int>(a.rows);
  const auto at = layer_of_block(a, blockIdx.x, BlocksOfColumns<Rows>());
  const auto& layer = a.layers[at.layer];
  const Index first = (blockIdx.x - at.first) * most;
  Index rank = 0;
  for (int i = 0; i < at.layer; ++i) rank += a.layers[i].ranks;
  const int columns = static_cast<int>(min(layer.d_out - first, Index{most}));
  if (!a.early) follow_earlier();
  Compute<T> sum[most][Rows] = {};
  const T *const p = a.p + rank, *const q = layer.Q + first * layer.ranks;
  const auto follow = [&] {
    if (a.early) follow_earlier();
    if constexpr (Rows == 1) add_ranks(sum, p, q, layer.ranks, columns);
  };
  if (layer.W)
    add_dots(sum, a.x, a.d_in, rows, layer.W + first * a.d_in, a.d_in, columns, follow);
  else
    follow();
  if constexpr (Rows > 1) add_dots(sum, p, a.stride, rows, q, layer.ranks, columns, [] {});
  Compute<T> d = sum_over_block(sum);
  const int c = static_cast<int>(threadIdx.x) / Rows, j = static_cast<int>(threadIdx.x) % Rows;
  if (c >= columns || j >= rows) return;
  T* const to = layer.y + j * layer.d_out + first + c;
  if (layer.c) d += static_cast<Compute<T>>(layer.c[first + c]);
  if (a.add) d += static_cast<Compute<T>>(*to);
  *to = static_cast<T>(d);
}

/// GatedRanks of up to Rows rows: a block a rank.
template <int Rows, class T>
__global__ void __launch_bounds__(few_rows_threads) few_rows_ranks(const __grid_constant__ GatedRanks<T> a) {
  const auto at = layer_of_block(a, blockIdx.x, BlocksOfRanks());
  const auto& layer = a.layers[at.layer];
  const Index rank = blockIdx.x - at.first;
  const int rows = static_cast<int>(a.rows);
  if (!a.early) follow_earlier();
  const int j = static_cast<int>(threadIdx.x);
  Compute<T> sum[1][Rows] = {}, weight = 0;
  add_dots(sum, a.x, a.d_in, rows, layer.A + rank * a.d_in, a.d_in, 1, [&] {
    if (a.early) follow_earlier();
    if (j < rows)
      weight = static_cast<Compute<T>>(layer.g[j / a.rows_per_gate * layer.experts + layer.column[rank]]);
  });
  const Compute<T> h = sum_over_block(sum);
  if (j < rows) a.p[j * a.ranks + blockIdx.x] = static_cast<T>(h * weight);
}

/// Rows of what is read, and how many blocks there can be.
template <class T>
bool few_rows_fit(const RowProducts<T>& a) {
  bool fit = a.rows > 0 && a.rows <= most_few_rows && a.count > 0 && a.count <= most_row_layers &&
             whole_packs({a.x, a.p}, {a.d_in, a.stride});
  for (int i = 0; fit && i < a.count; ++i) {
    const auto& layer = a.layers[i];
    fit = layer.d_out > 0 && layer.d_out < Index{1} << 28 && whole_packs({layer.W, layer.Q}, {layer.ranks});
  }
  return fit;
}
template <class T>
bool few_rows_fit(const GatedRanks<T>& a) {
  bool fit = a.rows > 0 && a.rows <= most_few_rows && a.ranks > 0 && a.ranks < Index{1} << 30 &&
             a.count > 0 && a.count <= most_row_layers && whole_packs({a.x}, {a.d_in});
  for (int i = 0; fit && i < a.count; ++i) fit = whole_packs({a.layers[i].A}, {});
  return fit;
}
/// Of a dense B0 that is not across.
template <class T>
bool few_rows_fit(const TwoProducts<T>& a) {
  return a.rows > 0 && a.rows <= most_few_rows && !a.across && a.columns > 0 && a.columns < Index{1} << 28 &&
         whole_packs({a.a0, a.b0, a.a1, a.b1}, {a.inner0, a.inner1, a.stride1});
}

/// f(std::integral_constant<int, Rows>) of the smallest kernel that takes so many rows.
template <class F>
void with_few_rows(Index rows, const F& f) {
  if (rows <= 1) return f(std::integral_constant<int, 1>());
  if (rows <= 4) return f(std::integral_constant<int, 4>());
  f(std::integral_constant<int, most_few_rows>());
}

template <class T>
void launch_few_rows(const RowProducts<T>& a) {
  with_few_rows(a.rows, [&](auto rows) {
    launch_early(few_rows_products<rows(), T>, blocks_of_layers(a, BlocksOfColumns<rows()>()),
                 few_rows_threads, 0, a);
  });
}
template <class T>
void launch_few_rows(const GatedRanks<T>& a) {
  with_few_rows(a.rows, [&](auto rows) {
    launch_early(few_rows_ranks<rows(), T>, static_cast<unsigned>(a.ranks), few_rows_threads, 0, a);
  });
}
template <class T>
void launch_few_rows(const TwoProducts<T>& a) {
  RowProducts<T> products{.x = a.a0,
                          .p = a.a1,
                          .rows = a.rows,
                          .d_in = a.inner0,
                          .stride = a.stride1,
                          .count = a.count,
                          .add = a.add,
                          .early = a.early};
  for (int i = 0; i < a.count; ++i) {
    const Index at = i * a.columns;
    products.layers[i] = {.W = a.b0 + at * a.inner0,
                          .Q = a.b1 + at * a.inner1,
                          .c = a.c[i],
                          .y = a.d + at * a.rows,
                          .d_out = a.columns,
                          .ranks = a.inner1};
  }
  launch_few_rows(products);
}

/// From how many bytes of W on a product of one row without experts is the kernel's. On an H200 cuBLAS takes 1.12 to 1.21
/// times as long over a row of 4096 or 11008 numbers in bf16; over two to four rows less.
inline constexpr Index least_product_bytes = Index{1} << 18;

/// Whether layers that mix no experts are worth the kernel.
template <class T>
bool few_rows_pay(const RowProducts<T>& a) {
  Index bytes = 0;
  for (int i = 0; i < a.count; ++i) {
    if (a.layers[i].ranks > 0) return true;
    bytes += a.layers[i].d_out * a.d_in * static_cast<Index>(sizeof(T));
  }
  return a.rows == 1 && bytes >= least_product_bytes && !std::is_same_v<T, double>;
}

/// C (+)= x W^T of one row and a large W by the kernel; false, and nothing is done, for any other product.
template <class T>
bool product_of_a_row(const Gemm& g, const T* x, const T* w, T* c) {
  const bool plain = !g.transpose_a && g.transpose_b && g.alpha == 1 && (g.beta == 0 || g.beta == 1) &&
                     g.m == 1 && g.batch[0] == 1 && g.batch[1] == 1 && g.ldb == g.k;
  if (!plain) return false;
  const RowProducts<T> one{
      .x = x,
      .p = nullptr,
      .rows = 1,
      .d_in = g.k,
      .stride = 0,
      .add = g.beta == 1,
      .layers = {{.W = w, .Q = nullptr, .c = nullptr, .y = c, .d_out = g.n, .ranks = 0}}};
  const bool fit = few_rows_fit(one) && few_rows_pay(one);
  if (fit) launch_few_rows(one);
  return fit;
}

}  // namespace mole::detail
