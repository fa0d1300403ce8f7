#pragma once
// Attention without stored scores (Dao et al. 2022), each score computed where it is used.
//
//   s = scale q k^T + bias, p = exp(s - log_sum), y = p v
//   ds = p (G v^T - <G, y>), dq = scale ds k, dk = scale ds^T q, dv = p^T G, dbias = sum of ds over sequences
//
// A block owns 16 rows (queries, or keys for dk and dv), four a warp, and walks the other side in tiles of
// 32, one for each lane. A lane owns every 32nd column of the output.

#include <cmath>
#include <limits>

#include <mole/backends/cuda/attention_head.cuh>
#include <mole/backends/cuda/attention_mma.cuh>
#include <mole/backends/cuda/attention_query.cuh>
#include <mole/backends/cuda/attention_slim.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/backends/cuda/warp.cuh>

namespace mole::detail {

template <int Parts, class T>
__global__ void __launch_bounds__(attention_threads) attention_forward_kernel(AttentionForward<T> a) {
  using V = Compute<T>;
  constexpr int columns = 32 * Parts, pitch = columns + 1, R = attention_rows_a_warp;
  extern __shared__ __align__(32) unsigned char shared[];
  V* const q = reinterpret_cast<V*>(shared);
  Quad<V>* const weights = reinterpret_cast<Quad<V>*>(q + attention_rows * columns);
  V *const k = q + attention_rows * columns + attention_threads * quad, *const v = k + attention_tile * pitch;
  follow_earlier();
  const AttentionPlace at(blockIdx.x, a.queries, a.heads);
  const Index stride = a.heads * a.width;
  const Index q_base = at.sequence * a.queries * stride + at.head * a.width;
  const Index k_base = at.sequence * a.keys * stride + at.head * a.width;
  const HeadRows<T> keys(a.k + k_base, stride, a.keys, a.width),
      values(a.v + k_base, stride, a.keys, a.width);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * R;
  Quad<V>* const mine = weights + threadIdx.x / 32 * 32;
  const V lowest = -std::numeric_limits<V>::infinity();
  HeadRows<T>(a.q + q_base, stride, a.queries, a.width)
      .template load<attention_rows, columns>(at.first, q, columns);

  V top[R], total[R], y[R][Parts];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    top[r] = lowest;
    total[r] = 0;
#pragma unroll
    for (int u = 0; u < Parts; ++u) y[r][u] = 0;
  }
  const Index last_query = at.first + attention_rows < a.queries ? at.first + attention_rows : a.queries;
  const Index end = a.causal ? last_query + a.keys - a.queries : a.keys;
  for (Index first = 0; first < end; first += attention_tile) {
    __syncthreads();
    keys.template load<attention_tile, columns>(first, k, pitch);
    values.template load<attention_tile, columns>(first, v, pitch);
    __syncthreads();
    V p[R] = {};
    add_dots(q + warp_row * columns, columns, k + lane * pitch, a.width, p);
    Quad<V> weight;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Index i = at.first + warp_row + r, j = first + lane;
      const V s = attention_visible(a, at.sequence, i, j) ? a.scale * p[r] + attention_bias(a, at.head, i, j)
                                                          : lowest;
      const V tile_top = max_over_warp(s), next = tile_top > top[r] ? tile_top : top[r];
      const V base = next == lowest ? V(0) : next;
      const V before = top[r] == lowest ? V(0) : exp(top[r] - base);
      weight.values[r] = s == lowest ? V(0) : exp(s - base);
      total[r] = total[r] * before + sum_over_warp(weight.values[r]);
      top[r] = next;
#pragma unroll
      for (int u = 0; u < Parts; ++u) y[r][u] *= before;
    }
    mine[lane] = weight;
    __syncwarp();
#pragma unroll 8
    for (int j = 0; j < attention_tile; ++j) {
      const Quad<V> of = mine[j];
#pragma unroll
      for (int u = 0; u < Parts; ++u) {
        const V value = v[j * pitch + lane + 32 * u];
#pragma unroll
        for (int r = 0; r < R; ++r) y[r][u] += of.values[r] * value;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const Index i = at.first + warp_row + r;
    if (i >= a.queries) continue;
    const V inverse = total[r] > V(0) ? V(1) / total[r] : V(0);
#pragma unroll
    for (int u = 0; u < Parts; ++u)
      if (lane + 32 * u < a.width)
        a.y[q_base + i * stride + lane + 32 * u] = static_cast<T>(y[r][u] * inverse);
    if (lane == 0)
      a.log_sum[(at.sequence * a.heads + at.head) * a.queries + i] =
          total[r] > V(0) ? top[r] + std::log(total[r]) : -lowest;
  }
}

/// <G, y> of a query, to all lanes: G in shared memory, y + lane and on in global memory.
template <int Parts, class T>
__device__ Compute<T> attention_inner(const Compute<T>* G, const T* y, Index width, int lane) {
  Compute<T> dot = 0;
#pragma unroll
  for (int u = 0; u < Parts; ++u) {
    const int c = lane + 32 * u;
    if (c < width) dot += G[c] * static_cast<Compute<T>>(y[c]);
  }
  return sum_over_warp(dot);
}

/// ln sum exp of a query's scores, and <G, y>; nothing beyond the last query.
template <class V>
struct AttentionQuery {
  V log_sum, inner;
};

/// p and ds of query i and key j from their products s = <q, k> and d = <G, v>.
template <class T>
__device__ void attention_slopes(const AttentionForward<T>& f, const AttentionPlace& at, Index i, Index j,
                                 const AttentionQuery<Compute<T>>& query, Compute<T> s, Compute<T> d,
                                 Compute<T>& p, Compute<T>& ds) {
  p = ds = 0;
  if (!attention_visible(f, at.sequence, i, j)) return;
  p = exp(f.scale * s + attention_bias(f, at.head, i, j) - query.log_sum);
  ds = p * (d - query.inner);
}

/// Shared memory of the backward kernels, in scalars: two sides of 16 rows, the weights and slopes of each
/// warp's tile, two tiles, and <G, y> of a tile's queries.
constexpr int attention_backward_scalars(int columns) {
  return 2 * attention_rows * columns + 2 * attention_threads * quad + 2 * attention_tile * (columns + 1) +
         attention_tile;
}

/// dq of a block of queries, or (ByKey) dk and dv of a block of keys. The block's own side has two arrays, q
/// and G, or k and v; the other side's come in tiles.
template <int Parts, bool ByKey, class T>
__device__ void attention_backward_block(const AttentionBackward<T>& a, Index block, Compute<T>* shared) {
  using V = Compute<T>;
  constexpr int columns = 32 * Parts, pitch = columns + 1, R = attention_rows_a_warp;
  V *const row1 = shared, *const row2 = row1 + attention_rows * columns;
  Quad<V>* const slopes = reinterpret_cast<Quad<V>*>(row2 + attention_rows * columns) + threadIdx.x / 32 * 32;
  Quad<V>* const weights = slopes + attention_threads;
  V* const tile1 = row2 + attention_rows * columns + 2 * attention_threads * quad;
  V *const tile2 = tile1 + attention_tile * pitch, *const inner = tile2 + attention_tile * pitch;
  const auto& f = a.forward;
  const Index rows = ByKey ? f.keys : f.queries, others = ByKey ? f.queries : f.keys;
  const AttentionPlace at(block, rows, f.heads);
  const Index stride = f.heads * f.width;
  const Index base = at.sequence * rows * stride + at.head * f.width;
  const Index other_base = at.sequence * others * stride + at.head * f.width;
  const V* const log_sum = f.log_sum + (at.sequence * f.heads + at.head) * f.queries;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * R;
  HeadRows<T>((ByKey ? f.k : f.q) + base, stride, rows, f.width)
      .template load<attention_rows, columns>(at.first, row1, columns);
  HeadRows<T>((ByKey ? f.v : a.G) + base, stride, rows, f.width)
      .template load<attention_rows, columns>(at.first, row2, columns);
  const HeadRows<T> other1((ByKey ? f.q : f.k) + other_base, stride, others, f.width);
  const HeadRows<T> other2((ByKey ? a.G : f.v) + other_base, stride, others, f.width);

  AttentionQuery<V> query[R] = {};
  if constexpr (!ByKey) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Index i = at.first + warp_row + r;
      if (i >= rows) continue;
      query[r] = {log_sum[i], attention_inner<Parts>(row2 + (warp_row + r) * columns, f.y + base + i * stride,
                                                     f.width, lane)};
    }
  }
  V out1[R][Parts] = {}, out2[ByKey ? R : 1][Parts] = {};
  const Index last_row = at.first + attention_rows < rows ? at.first + attention_rows : rows;
  const Index end = f.causal && !ByKey ? last_row + f.keys - f.queries : others;
  // The first query that sees key j is j - (keys - queries).
  const Index unseen = f.causal && ByKey ? at.first - (f.keys - f.queries) : 0;
  for (Index first = unseen > 0 ? unseen / attention_tile * attention_tile : 0; first < end;
       first += attention_tile) {
    __syncthreads();
    other1.template load<attention_tile, columns>(first, tile1, pitch);
    other2.template load<attention_tile, columns>(first, tile2, pitch);
    __syncthreads();
    if constexpr (ByKey) {
#pragma unroll
      for (int turn = 0; turn < attention_tile / attention_warps; ++turn) {
        const int j = turn * attention_warps + static_cast<int>(threadIdx.x) / 32;
        if (first + j >= others) continue;
        const V dot =
            attention_inner<Parts>(tile2 + j * pitch, f.y + other_base + (first + j) * stride, f.width, lane);
        if (lane == 0) inner[j] = dot;
      }
      __syncthreads();
    }
    V p[R] = {}, ds[R] = {};
    add_dots(row1 + warp_row * columns, columns, tile1 + lane * pitch, f.width, p);
    add_dots(row2 + warp_row * columns, columns, tile2 + lane * pitch, f.width, ds);
    const Index other = first + lane;
    AttentionQuery<V> of_lane{};
    if (ByKey && other < others) of_lane = {log_sum[other], inner[lane]};
    Quad<V> slope, weight;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Index mine = at.first + warp_row + r;
      attention_slopes(f, at, ByKey ? other : mine, ByKey ? mine : other, ByKey ? of_lane : query[r], p[r],
                       ds[r], weight.values[r], slope.values[r]);
    }
    slopes[lane] = slope;
    if constexpr (ByKey) weights[lane] = weight;
    __syncwarp();
#pragma unroll 8
    for (int j = 0; j < attention_tile; ++j) {
      const Quad<V> of = slopes[j];
#pragma unroll
      for (int u = 0; u < Parts; ++u) {
        const V value = tile1[j * pitch + lane + 32 * u];
#pragma unroll
        for (int r = 0; r < R; ++r) out1[r][u] += of.values[r] * value;
      }
      if constexpr (ByKey) {
        const Quad<V> by = weights[j];
#pragma unroll
        for (int u = 0; u < Parts; ++u) {
          const V value = tile2[j * pitch + lane + 32 * u];
#pragma unroll
          for (int r = 0; r < R; ++r) out2[r][u] += by.values[r] * value;
        }
      }
    }
  }
  T *const to1 = ByKey ? a.dk : a.dq, *const to2 = ByKey ? a.dv : nullptr;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const Index row = at.first + warp_row + r;
    if (row >= rows) continue;
#pragma unroll
    for (int u = 0; u < Parts; ++u) {
      const int c = lane + 32 * u;
      if (c >= f.width) continue;
      if (to1) to1[base + row * stride + c] = static_cast<T>(f.scale * out1[r][u]);
      if constexpr (ByKey)
        if (to2) to2[base + row * stride + c] = static_cast<T>(out2[r][u]);
    }
  }
}

/// The first `query_blocks` blocks make dq, the others dk and dv.
template <int Parts, class T>
__global__ void __launch_bounds__(attention_threads)
    attention_backward_kernel(AttentionBackward<T> a, Index query_blocks) {
  extern __shared__ __align__(32) unsigned char shared[];
  auto* const memory = reinterpret_cast<Compute<T>*>(shared);
  follow_earlier();
  const Index block = blockIdx.x;
  if (block < query_blocks)
    attention_backward_block<Parts, false>(a, block, memory);
  else
    attention_backward_block<Parts, true>(a, block - query_blocks, memory);
}

/// dbias of 16 queries and all keys of a head, summed over the sequences in order.
template <int Parts, class T>
__global__ void __launch_bounds__(attention_threads) attention_bias_kernel(AttentionBackward<T> a) {
  using V = Compute<T>;
  constexpr int columns = 32 * Parts, pitch = columns + 1, R = attention_rows_a_warp;
  extern __shared__ __align__(32) unsigned char shared[];
  V *const q = reinterpret_cast<V*>(shared), *const G = q + attention_rows * columns,
           *const k = G + attention_rows * columns, *const v = k + attention_tile * pitch;
  follow_earlier();
  const auto& f = a.forward;
  AttentionPlace at(blockIdx.x, f.queries, f.heads);
  const Index stride = f.heads * f.width, offset = at.head * f.width;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * R;
  for (Index first = 0; first < f.keys; first += attention_tile) {
    V total[R] = {};
    for (at.sequence = 0; at.sequence < f.sequences; ++at.sequence) {
      const Index q_base = at.sequence * f.queries * stride + offset;
      const Index k_base = at.sequence * f.keys * stride + offset;
      const V* const log_sum = f.log_sum + (at.sequence * f.heads + at.head) * f.queries;
      __syncthreads();
      HeadRows<T>(f.q + q_base, stride, f.queries, f.width)
          .template load<attention_rows, columns>(at.first, q, columns);
      HeadRows<T>(a.G + q_base, stride, f.queries, f.width)
          .template load<attention_rows, columns>(at.first, G, columns);
      HeadRows<T>(f.k + k_base, stride, f.keys, f.width)
          .template load<attention_tile, columns>(first, k, pitch);
      HeadRows<T>(f.v + k_base, stride, f.keys, f.width)
          .template load<attention_tile, columns>(first, v, pitch);
      __syncthreads();
      V s[R] = {}, d[R] = {};
      add_dots(q + warp_row * columns, columns, k + lane * pitch, f.width, s);
      add_dots(G + warp_row * columns, columns, v + lane * pitch, f.width, d);
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const Index i = at.first + warp_row + r;
        if (i >= f.queries) continue;
        const AttentionQuery<V> query{
            log_sum[i],
            attention_inner<Parts>(G + (warp_row + r) * columns, f.y + q_base + i * stride, f.width, lane)};
        V p, ds;
        attention_slopes(f, at, i, first + lane, query, s[r], d[r], p, ds);
        total[r] += ds;
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Index i = at.first + warp_row + r, j = first + lane;
      if (i < f.queries && j < f.keys)
        a.dbias[(at.head * f.queries + i) * f.keys + j] = static_cast<T>(total[r]);
    }
  }
}

/// Launches `blocks` blocks with so many scalars V of shared memory.
template <class V, class... A>
void launch_attention_kernel(void (*kernel)(A...), Index blocks, int scalars, const A&... arguments) {
  if (blocks == 0) return;
  const auto bytes = static_cast<std::size_t>(scalars) * sizeof(V);
  MOLE_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  launch_early(kernel, blocks_for(blocks, 1), attention_threads, bytes, arguments...);
}

/// The widest heads that there are kernels for.
template <class T>
inline constexpr Index attention_widest = sizeof(Compute<T>) == 8 ? 128 : 256;

/// Whether this GPU has the shared memory for heads of this width, forth and back: compute capability 8.6 has
/// 99 KB, 8.0 has 163.
template <class T>
bool attention_fits(Index width) {
  if (width > attention_widest<T>) return false;
  const int columns = width <= 128 ? static_cast<int>((width + 31) / 32 * 32) : 256;
  return attention_backward_scalars(columns) * static_cast<int>(sizeof(Compute<T>)) <=
         cuda_context().shared_bytes;
}

/// Blocks for one side of all heads.
inline Index attention_blocks(Index grids, Index rows) {
  return grids * ((rows + attention_rows - 1) / attention_rows);
}

template <int Parts, class T>
void launch_attention_with(const AttentionForward<T>& a) {
  if (attention_query_fits(a)) return launch_attention_query(a);
  if constexpr (Narrow<T>)
    if (attention_mma_fits(a)) return launch_attention_mma(a);
  if constexpr (Parts == 1 && std::is_same_v<T, float>)
    if (attention_slim_fits(a)) return launch_attention_slim(a);
  constexpr int columns = 32 * Parts;
  constexpr int scalars =
      attention_rows * columns + attention_threads * quad + 2 * attention_tile * (columns + 1);
  launch_attention_kernel<Compute<T>>(attention_forward_kernel<Parts, T>,
                                      attention_blocks(a.sequences * a.heads, a.queries), scalars, a);
}

template <int Parts, class T>
void launch_attention_with(AttentionBackward<T> a) {
  using V = Compute<T>;
  constexpr int scalars = attention_backward_scalars(32 * Parts);
  const auto& f = a.forward;
  if constexpr (Narrow<T>)
    if (attention_mma_fits(f)) {
      launch_attention_mma(a);
      a.dq = a.dk = a.dv = nullptr;
    }
  if constexpr (Parts == 1 && std::is_same_v<T, float>)
    if (attention_slim_fits(a)) return launch_attention_slim(a);
  const Index grids = f.sequences * f.heads, by_query = a.dq ? attention_blocks(grids, f.queries) : 0;
  const Index by_key = a.dk || a.dv ? attention_blocks(grids, f.keys) : 0;
  launch_attention_kernel<V>(attention_backward_kernel<Parts, T>, by_query + by_key, scalars, a, by_query);
  if (a.dbias)
    launch_attention_kernel<V>(attention_bias_kernel<Parts, T>, attention_blocks(f.heads, f.queries), scalars,
                               a);
}

/// A is AttentionForward or AttentionBackward; false where attention_fits() says so.
template <class T, class A>
bool launch_attention(Index width, const A& a) {
  if (!attention_fits<T>(width)) return false;
  if (width <= 32)
    launch_attention_with<1>(a);
  else if (width <= 64)
    launch_attention_with<2>(a);
  else if (width <= 96)
    launch_attention_with<3>(a);
  else if (width <= 128)
    launch_attention_with<4>(a);
  else if constexpr (attention_widest<T> > 128)
    launch_attention_with<8>(a);
  return true;
}

}  // namespace mole::detail
