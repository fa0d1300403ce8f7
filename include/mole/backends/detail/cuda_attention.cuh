#pragma once
// Attention without stored scores (Dao et al. 2022), each score computed where it is used.
//
//   s = scale q k^T + bias, p = exp(s - log_sum), y = p v
//   ds = p (G v^T - <G, y>), dq = scale ds k, dk = scale ds^T q, dv = p^T G, dbias = sum of ds over sequences
//
// A block owns 16 rows (queries, or keys for dk and dv), four a warp, and walks the other side in tiles of
// 32, one for each lane. A lane owns every 32nd column of the output.

#include <mole/backends/detail/cuda_rows.cuh>
#include <mole/core/fused.hpp>

namespace mole::detail {

inline constexpr int attention_tile = 32, attention_warps = 4, attention_rows_a_warp = 4;
inline constexpr int attention_rows = attention_warps * attention_rows_a_warp;
inline constexpr int attention_threads = attention_warps * 32;

template <class V>
__device__ V warp_sum(V value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}
template <class V>
__device__ V warp_max(V value) {
  for (int step = 16; step > 0; step /= 2) {
    const V other = __shfl_xor_sync(0xffffffffu, value, step);
    value = other > value ? other : value;
  }
  return value;
}

/// Rows [first, first + rows) of one head, x + row * stride, to shared memory; zero beyond `count` and
/// `width`.
template <int Columns, class T, class V>
__device__ void load_rows(const T* x, Index stride, Index first, Index count, int rows, Index width, V* to,
                          int pitch) {
  for (int at = threadIdx.x; at < rows * Columns; at += attention_threads) {
    const int r = at / Columns, c = at % Columns;
    to[r * pitch + c] = first + r < count && c < width ? static_cast<V>(x[(first + r) * stride + c]) : V(0);
  }
}

/// Which block of rows of which head this block works on.
struct AttentionPlace {
  Index sequence, head, first;

  __device__ AttentionPlace(Index rows, Index heads) {
    const Index blocks = (rows + attention_rows - 1) / attention_rows, at = blockIdx.x;
    first = at % blocks * attention_rows;
    head = at / blocks % heads;
    sequence = at / blocks / heads;
  }
};

/// Whether query i of a sequence sees key j.
template <class T>
__device__ bool attention_visible(const AttentionForward<T>& a, Index sequence, Index i, Index j) {
  return i < a.queries && j < a.keys && (!a.causal || j < i + a.keys - a.queries + 1) &&
         (!a.key_mask || static_cast<Compute<T>>(a.key_mask[sequence * a.keys + j]) != Compute<T>(0));
}

template <class T>
__device__ Compute<T> attention_bias(const AttentionForward<T>& a, Index head, Index i, Index j) {
  return a.bias ? static_cast<Compute<T>>(a.bias[(head * a.queries + i) * a.keys + j]) : Compute<T>(0);
}

template <int Parts, class T>
__global__ void __launch_bounds__(attention_threads) attention_forward_kernel(AttentionForward<T> a) {
  using V = Compute<T>;
  constexpr int columns = 32 * Parts, pitch = columns + 1, R = attention_rows_a_warp;
  extern __shared__ __align__(16) unsigned char shared[];
  V *const q = reinterpret_cast<V*>(shared), *const k = q + attention_rows * columns,
           *const v = k + attention_tile * pitch;
  const AttentionPlace at(a.queries, a.heads);
  const Index stride = a.heads * a.width;
  const Index q_base = at.sequence * a.queries * stride + at.head * a.width;
  const Index k_base = at.sequence * a.keys * stride + at.head * a.width;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * R;
  const V lowest = -std::numeric_limits<V>::infinity();
  load_rows<columns>(a.q + q_base, stride, at.first, a.queries, attention_rows, a.width, q, columns);

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
    load_rows<columns>(a.k + k_base, stride, first, a.keys, attention_tile, a.width, k, pitch);
    load_rows<columns>(a.v + k_base, stride, first, a.keys, attention_tile, a.width, v, pitch);
    __syncthreads();
    V p[R] = {};
    for (int c = 0; c < a.width; ++c) {
      const V key = k[lane * pitch + c];
#pragma unroll
      for (int r = 0; r < R; ++r) p[r] += q[(warp_row + r) * columns + c] * key;
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Index i = at.first + warp_row + r, j = first + lane;
      const V s = attention_visible(a, at.sequence, i, j) ? a.scale * p[r] + attention_bias(a, at.head, i, j)
                                                          : lowest;
      const V tile_top = warp_max(s), next = tile_top > top[r] ? tile_top : top[r];
      const V base = next == lowest ? V(0) : next;
      const V before = top[r] == lowest ? V(0) : exp(top[r] - base);
      p[r] = s == lowest ? V(0) : exp(s - base);
      total[r] = total[r] * before + warp_sum(p[r]);
      top[r] = next;
#pragma unroll
      for (int u = 0; u < Parts; ++u) y[r][u] *= before;
    }
    for (int j = 0; j < attention_tile; ++j) {
      V value[Parts];
#pragma unroll
      for (int u = 0; u < Parts; ++u) value[u] = v[j * pitch + lane + 32 * u];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const V weight = __shfl_sync(0xffffffffu, p[r], j);
#pragma unroll
        for (int u = 0; u < Parts; ++u) y[r][u] += weight * value[u];
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

/// inner[s, h, i] = <G, y>, a warp a query.
template <class T>
struct AttentionInner {
  AttentionBackward<T> a;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using V = Compute<T>;
    const auto& f = a.forward;
    const Index i = row.index() % f.queries, h = row.index() / f.queries % f.heads,
                s = row.index() / f.queries / f.heads;
    const Index base = ((s * f.queries + i) * f.heads + h) * f.width;
    const T *const G = a.G + base, *const y = f.y + base;
    const V dot = row.sum(f.width, [=](Index c) { return static_cast<V>(G[c]) * static_cast<V>(y[c]); });
    V* const to = a.inner + row.index();
    row.each(1, [=](Index) { *to = dot; });
  }
};

/// p and ds of query i and key j from their products s = <q, k> and d = <G, v>.
template <class T>
__device__ void attention_slopes(const AttentionBackward<T>& a, const AttentionPlace& at, Index i, Index j,
                                 Compute<T> s, Compute<T> d, Compute<T>& p, Compute<T>& ds) {
  const auto& f = a.forward;
  p = ds = 0;
  if (!attention_visible(f, at.sequence, i, j)) return;
  const Index row = (at.sequence * f.heads + at.head) * f.queries + i;
  p = exp(f.scale * s + attention_bias(f, at.head, i, j) - f.log_sum[row]);
  ds = p * (d - a.inner[row]);
}

/// dq of a block of queries, or (ByKey) dk and dv of a block of keys. `rows` are the block's own side, first
/// and second: q and G, or k and v; `tile` the other.
template <int Parts, bool ByKey, class T>
__global__ void __launch_bounds__(attention_threads) attention_backward_kernel(AttentionBackward<T> a) {
  using V = Compute<T>;
  constexpr int columns = 32 * Parts, pitch = columns + 1, R = attention_rows_a_warp;
  extern __shared__ __align__(16) unsigned char shared[];
  V *const row1 = reinterpret_cast<V*>(shared), *const row2 = row1 + attention_rows * columns,
           *const tile1 = row2 + attention_rows * columns, *const tile2 = tile1 + attention_tile * pitch;
  const auto& f = a.forward;
  const Index rows = ByKey ? f.keys : f.queries, others = ByKey ? f.queries : f.keys;
  const AttentionPlace at(rows, f.heads);
  const Index stride = f.heads * f.width;
  const Index base = at.sequence * rows * stride + at.head * f.width;
  const Index other_base = at.sequence * others * stride + at.head * f.width;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * R;
  load_rows<columns>((ByKey ? f.k : f.q) + base, stride, at.first, rows, attention_rows, f.width, row1,
                     columns);
  load_rows<columns>((ByKey ? f.v : a.G) + base, stride, at.first, rows, attention_rows, f.width, row2,
                     columns);

  V out1[R][Parts] = {}, out2[ByKey ? R : 1][Parts] = {};
  const Index last_row = at.first + attention_rows < rows ? at.first + attention_rows : rows;
  const Index end = f.causal && !ByKey ? last_row + f.keys - f.queries : others;
  // The first query that sees key j is j - (keys - queries).
  const Index unseen = f.causal && ByKey ? at.first - (f.keys - f.queries) : 0;
  for (Index first = unseen > 0 ? unseen / attention_tile * attention_tile : 0; first < end;
       first += attention_tile) {
    __syncthreads();
    load_rows<columns>((ByKey ? f.q : f.k) + other_base, stride, first, others, attention_tile, f.width,
                       tile1, pitch);
    load_rows<columns>((ByKey ? a.G : f.v) + other_base, stride, first, others, attention_tile, f.width,
                       tile2, pitch);
    __syncthreads();
    V p[R] = {}, ds[R] = {};
    for (int c = 0; c < f.width; ++c) {
      const V first_value = tile1[lane * pitch + c], second_value = tile2[lane * pitch + c];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        p[r] += row1[(warp_row + r) * columns + c] * first_value;
        ds[r] += row2[(warp_row + r) * columns + c] * second_value;
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const Index mine = at.first + warp_row + r, other = first + lane;
      attention_slopes(a, at, ByKey ? other : mine, ByKey ? mine : other, p[r], ds[r], p[r], ds[r]);
    }
    for (int j = 0; j < attention_tile; ++j) {
      V one[Parts], two[Parts];
#pragma unroll
      for (int u = 0; u < Parts; ++u) {
        one[u] = tile1[j * pitch + lane + 32 * u];
        if constexpr (ByKey) two[u] = tile2[j * pitch + lane + 32 * u];
      }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const V slope = __shfl_sync(0xffffffffu, ds[r], j);
        const V weight = ByKey ? __shfl_sync(0xffffffffu, p[r], j) : V(0);
#pragma unroll
        for (int u = 0; u < Parts; ++u) {
          out1[r][u] += slope * one[u];
          if constexpr (ByKey) out2[r][u] += weight * two[u];
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

/// dbias of 16 queries and all keys of a head, summed over the sequences in order.
template <int Parts, class T>
__global__ void __launch_bounds__(attention_threads) attention_bias_kernel(AttentionBackward<T> a) {
  using V = Compute<T>;
  constexpr int columns = 32 * Parts, pitch = columns + 1, R = attention_rows_a_warp;
  extern __shared__ __align__(16) unsigned char shared[];
  V *const q = reinterpret_cast<V*>(shared), *const G = q + attention_rows * columns,
           *const k = G + attention_rows * columns, *const v = k + attention_tile * pitch;
  const auto& f = a.forward;
  AttentionPlace at(f.queries, f.heads);
  const Index stride = f.heads * f.width, offset = at.head * f.width;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * R;
  for (Index first = 0; first < f.keys; first += attention_tile) {
    V total[R] = {};
    for (at.sequence = 0; at.sequence < f.sequences; ++at.sequence) {
      const Index q_base = at.sequence * f.queries * stride + offset;
      const Index k_base = at.sequence * f.keys * stride + offset;
      __syncthreads();
      load_rows<columns>(f.q + q_base, stride, at.first, f.queries, attention_rows, f.width, q, columns);
      load_rows<columns>(a.G + q_base, stride, at.first, f.queries, attention_rows, f.width, G, columns);
      load_rows<columns>(f.k + k_base, stride, first, f.keys, attention_tile, f.width, k, pitch);
      load_rows<columns>(f.v + k_base, stride, first, f.keys, attention_tile, f.width, v, pitch);
      __syncthreads();
#pragma unroll
      for (int r = 0; r < R; ++r) {
        V s = 0, d = 0, p, ds;
        for (int c = 0; c < f.width; ++c) {
          s += q[(warp_row + r) * columns + c] * k[lane * pitch + c];
          d += G[(warp_row + r) * columns + c] * v[lane * pitch + c];
        }
        attention_slopes(a, at, at.first + warp_row + r, first + lane, s, d, p, ds);
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

/// Launches with `sides` arrays of 16 rows and two tiles in shared memory; false where they do not fit.
template <class A>
bool launch_attention_kernel(const A& a, void (*kernel)(A), Index blocks, int columns, int sides,
                             std::size_t scalar) {
  const std::size_t bytes =
      static_cast<std::size_t>(sides * attention_rows * columns + 2 * attention_tile * (columns + 1)) *
      scalar;
  if (blocks == 0) return true;
  MOLE_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<blocks_for(blocks, 1), attention_threads, bytes, cuda_context().stream>>>(a);
  MOLE_CUDA_CHECK(cudaGetLastError());
  return true;
}

/// Heads wider than this leave too little shared memory for a block (sm_80 has 163 KB).
template <class T>
bool attention_fits(Index width) {
  return width <= (sizeof(Compute<T>) == 8 ? 128 : 256);
}

template <int Parts, class T>
bool launch_attention_with(const AttentionForward<T>& a) {
  const Index blocks = a.sequences * a.heads * ((a.queries + attention_rows - 1) / attention_rows);
  return launch_attention_kernel(a, attention_forward_kernel<Parts, T>, blocks, 32 * Parts, 1,
                                 sizeof(Compute<T>));
}

template <int Parts, class T>
bool launch_attention_with(const AttentionBackward<T>& a) {
  const auto& f = a.forward;
  auto blocks = [](Index rows) { return (rows + attention_rows - 1) / attention_rows; };
  const Index grids = f.sequences * f.heads;
  launch_rows(grids * f.queries, f.width, AttentionInner<T>{a});
  auto launch = [&](void (*kernel)(AttentionBackward<T>), Index count) {
    launch_attention_kernel(a, kernel, count, 32 * Parts, 2, sizeof(Compute<T>));
  };
  if (a.dq) launch(attention_backward_kernel<Parts, false, T>, grids * blocks(f.queries));
  if (a.dk || a.dv) launch(attention_backward_kernel<Parts, true, T>, grids * blocks(f.keys));
  if (a.dbias) launch(attention_bias_kernel<Parts, T>, f.heads * blocks(f.queries));
  return true;
}

/// A is AttentionForward or AttentionBackward; false for heads that are too wide.
template <class T, class A>
bool launch_attention(Index width, const A& a) {
  if (!attention_fits<T>(width)) return false;
  if (width <= 32) return launch_attention_with<1>(a);
  if (width <= 64) return launch_attention_with<2>(a);
  if (width <= 96) return launch_attention_with<3>(a);
  if (width <= 128) return launch_attention_with<4>(a);
  return launch_attention_with<8>(a);
}

}  // namespace mole::detail
