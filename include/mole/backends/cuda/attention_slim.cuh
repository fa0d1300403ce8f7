#pragma once
// Attention of slim heads in float, as small models have them: a thread owns a row.
//
//   s = scale q k^T, p = exp(s - log_sum), y = p v
//   ds = p (G v^T - <G, y>), dq = scale ds k, dk = scale ds^T q, dv = p^T G
//
// A thread keeps its query, or for dk and dv its key, and what it makes of it in registers. The other side comes to
// shared memory in tiles. All threads read the same row of a tile at a time, so that one read serves a warp. The
// kernels of attention.cuh have a lane for a column, and half of their lanes would rest with heads of 16.

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <mole/backends/cuda/attention_head.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/core/kernels/attention.hpp>

namespace mole::detail {

inline constexpr int slim_threads = 128, slim_tile = 64, slim_widest = 32;

/// A row of a head: `width` floats, zeros up to Width.
template <int Width>
struct SlimRow {
  static constexpr int packs = Width / 4;
  Pack<float> parts[packs];

  /// The row at x, or zeros.
  __device__ void load(const float* x, Index width, bool there) {
#pragma unroll
    for (int c = 0; c < packs; ++c) parts[c] = there && c * 4 < width ? load_pack(x + c * 4) : Pack<float>{};
  }
  __device__ void store(float* x, Index width, float factor) const {
#pragma unroll
    for (int c = 0; c < packs; ++c) {
      if (c * 4 >= width) continue;
      float scaled[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) scaled[e] = factor * parts[c].values[e];
      store_pack(x + c * 4, scaled);
    }
  }
  __device__ float dot(const SlimRow& other) const {
    float total = 0;
#pragma unroll
    for (int c = 0; c < packs; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) total += parts[c].values[e] * other.parts[c].values[e];
    return total;
  }
  /// += factor * other
  __device__ void add(float factor, const SlimRow& other) {
#pragma unroll
    for (int c = 0; c < packs; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) parts[c].values[e] += factor * other.parts[c].values[e];
  }
  __device__ void scale(float factor) {
#pragma unroll
    for (int c = 0; c < packs; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) parts[c].values[e] *= factor;
  }
};

/// Where the rows of a head lie in [S, count, H width].
struct SlimSide {
  Index first, stride, count, width;

  __device__ SlimSide(const AttentionForward<float>& a, const AttentionPlace& at, Index count)
      : first(at.sequence * count * a.heads * a.width + at.head * a.width),
        stride(a.heads * a.width),
        count(count),
        width(a.width) {}

  __device__ Index offset(Index row) const { return first + row * stride; }

  /// Rows [from, from + slim_tile) of x to shared memory, zeros beyond the last.
  template <int Width>
  __device__ void load(const float* x, Index from, SlimRow<Width>* to) const {
    constexpr int packs = Width / 4;
    for (int at = static_cast<int>(threadIdx.x); at < slim_tile * packs; at += static_cast<int>(blockDim.x)) {
      const int r = at / packs, c = at % packs;
      to[r].parts[c] =
          from + r < count && c * 4 < width ? load_pack(x + offset(from + r) + c * 4) : Pack<float>{};
    }
  }
};

/// Whether the mask keeps key j of a sequence.
__device__ inline bool slim_keeps(const AttentionForward<float>& a, Index sequence, Index j) {
  return j < a.keys && (!a.key_mask || a.key_mask[sequence * a.keys + j] != 0.0f);
}

/// How many keys query i sees, the masked among them.
__device__ inline Index slim_keys(const AttentionForward<float>& a, Index i) {
  return a.causal ? i + 1 + a.keys - a.queries : a.keys;
}

template <int Width>
__global__ void __launch_bounds__(slim_threads)
    slim_forward_kernel(const __grid_constant__ AttentionForward<float> a) {
  constexpr int at_once = 8;
  constexpr float lowest = -std::numeric_limits<float>::infinity();
  __shared__ SlimRow<Width> k[slim_tile], v[slim_tile];
  __shared__ bool kept[slim_tile];
  follow_earlier();
  const AttentionPlace at(blockIdx.x, a.queries, a.heads, blockDim.x);
  const SlimSide queries(a, at, a.queries), keys(a, at, a.keys);
  const Index i = at.first + threadIdx.x;
  const bool works = i < a.queries;
  SlimRow<Width> q, y{};
  q.load(a.q + queries.offset(i), a.width, works);
  float top = lowest, total = 0;
  const Index seen = works ? slim_keys(a, i) : 0,
              end = slim_keys(a, min(at.first + static_cast<Index>(blockDim.x), a.queries) - 1);
  for (Index first = 0; first < end; first += slim_tile) {
    __syncthreads();
    keys.load(a.k, first, k);
    keys.load(a.v, first, v);
    for (int j = static_cast<int>(threadIdx.x); j < slim_tile; j += static_cast<int>(blockDim.x))
      kept[j] = slim_keeps(a, at.sequence, first + j);
    __syncthreads();
    const int count = static_cast<int>(min(Index{slim_tile}, seen - first));
    for (int j = 0; j < count; j += at_once) {
      float s[at_once], next = top;
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const float dot = q.dot(k[j + u]);
        s[u] = kept[j + u] && j + u < count ? a.scale * dot : lowest;
        next = s[u] > next ? s[u] : next;
      }
      const float base = next == lowest ? 0 : next, before = top == lowest ? 0 : exp(top - base);
      top = next;
      total *= before;
      y.scale(before);
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        const float p = exp(s[u] - base);
        total += p;
        y.add(p, v[j + u]);
      }
    }
  }
  if (!works) return;
  y.store(a.y + queries.offset(i), a.width, total > 0 ? 1 / total : 0);
  a.log_sum[(at.sequence * a.heads + at.head) * a.queries + i] = total > 0 ? top + std::log(total) : -lowest;
}

/// What the backward blocks share: a tile of the other side, of its two arrays, and of its queries ln sum exp and <G,
/// y>.
template <int Width>
struct SlimTile {
  SlimRow<Width> one[slim_tile], two[slim_tile];
  float log_sum[slim_tile], inner[slim_tile];
  bool kept[slim_tile];
};

/// dq of a block of queries.
template <int Width>
__device__ void slim_backward_queries(const AttentionBackward<float>& a, Index block, SlimTile<Width>& tile) {
  const auto& f = a.forward;
  const AttentionPlace at(block, f.queries, f.heads, blockDim.x);
  const SlimSide queries(f, at, f.queries), keys(f, at, f.keys);
  const Index i = at.first + threadIdx.x;
  const bool works = i < f.queries;
  SlimRow<Width> q, G, y, dq{};
  q.load(f.q + queries.offset(i), f.width, works);
  G.load(a.G + queries.offset(i), f.width, works);
  y.load(f.y + queries.offset(i), f.width, works);
  const float inner = y.dot(G),
              log_sum = works ? f.log_sum[(at.sequence * f.heads + at.head) * f.queries + i] : 0;
  const Index seen = works ? slim_keys(f, i) : 0,
              end = slim_keys(f, min(at.first + static_cast<Index>(blockDim.x), f.queries) - 1);
  for (Index first = 0; first < end; first += slim_tile) {
    __syncthreads();
    keys.load(f.k, first, tile.one);
    keys.load(f.v, first, tile.two);
    for (int j = static_cast<int>(threadIdx.x); j < slim_tile; j += static_cast<int>(blockDim.x))
      tile.kept[j] = slim_keeps(f, at.sequence, first + j);
    __syncthreads();
    const int count = static_cast<int>(min(Index{slim_tile}, seen - first));
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      const float s = q.dot(tile.one[j]), d = G.dot(tile.two[j]);
      const float p = tile.kept[j] ? exp(f.scale * s - log_sum) : 0;
      dq.add(p * (d - inner), tile.one[j]);
    }
  }
  if (works) dq.store(a.dq + queries.offset(i), f.width, f.scale);
}

/// dk and dv of a block of keys.
template <int Width>
__device__ void slim_backward_keys(const AttentionBackward<float>& a, Index block, SlimTile<Width>& tile) {
  const auto& f = a.forward;
  const AttentionPlace at(block, f.keys, f.heads, blockDim.x);
  const SlimSide queries(f, at, f.queries), keys(f, at, f.keys);
  const Index j = at.first + threadIdx.x;
  const bool works = j < f.keys, kept = slim_keeps(f, at.sequence, j);
  SlimRow<Width> k, v, dk{}, dv{};
  k.load(f.k + keys.offset(j), f.width, works);
  v.load(f.v + keys.offset(j), f.width, works);
  const float* const log_sum = f.log_sum + (at.sequence * f.heads + at.head) * f.queries;
  // The first query that sees key j is j - (keys - queries).
  const Index hidden = f.causal ? f.keys - f.queries : 0, unseen = f.causal ? at.first - hidden : 0;
  for (Index first = unseen > 0 ? unseen / slim_tile * slim_tile : 0; first < f.queries; first += slim_tile) {
    __syncthreads();
    queries.load(f.q, first, tile.one);
    queries.load(a.G, first, tile.two);
    for (int i = static_cast<int>(threadIdx.x); i < slim_tile; i += static_cast<int>(blockDim.x)) {
      SlimRow<Width> y, G;
      const bool there = first + i < f.queries;
      y.load(f.y + queries.offset(first + i), f.width, there);
      G.load(a.G + queries.offset(first + i), f.width, there);
      tile.inner[i] = y.dot(G);
      tile.log_sum[i] = there ? log_sum[first + i] : 0;
    }
    __syncthreads();
    if (!kept) continue;
    const int count = static_cast<int>(min(Index{slim_tile}, f.queries - first)),
              from = f.causal ? static_cast<int>(::max(Index{0}, j - hidden - first)) : 0;
#pragma unroll 2
    for (int i = from; i < count; ++i) {
      const float s = k.dot(tile.one[i]), d = v.dot(tile.two[i]);
      const float p = exp(f.scale * s - tile.log_sum[i]);
      dv.add(p, tile.two[i]);
      dk.add(p * (d - tile.inner[i]), tile.one[i]);
    }
  }
  if (!works) return;
  if (a.dk) dk.store(a.dk + keys.offset(j), f.width, f.scale);
  if (a.dv) dv.store(a.dv + keys.offset(j), f.width, 1);
}

/// The first `query_blocks` blocks make dq, the others dk and dv.
template <int Width>
__global__ void __launch_bounds__(slim_threads)
    slim_backward_kernel(const __grid_constant__ AttentionBackward<float> a, Index query_blocks) {
  __shared__ SlimTile<Width> tile;
  follow_earlier();
  const Index block = blockIdx.x;
  if (block < query_blocks)
    slim_backward_queries(a, block, tile);
  else
    slim_backward_keys(a, block - query_blocks, tile);
}

/// Whether the kernels take these: slim heads of whole packs, rows enough for a warp on each of a GPU's schedulers, and
/// no bias, which neighbouring threads would read far apart.
template <class T>
bool attention_slim_fits(const AttentionForward<T>& a) {
  constexpr Index rows_enough = 16384;
  return std::is_same_v<T, float> && !a.bias && a.width <= slim_widest &&
         a.sequences * a.heads * std::min(a.queries, a.keys) >= rows_enough &&
         whole_packs<T>({a.q, a.k, a.v, a.y}, {a.width});
}
template <class T>
bool attention_slim_fits(const AttentionBackward<T>& a) {
  return attention_slim_fits(a.forward) && !a.dbias && whole_packs<T>({a.G, a.dq, a.dk, a.dv}, {});
}

/// Threads of a block, a row each, and how many blocks all heads have.
struct SlimBlocks {
  Index threads, blocks;

  template <class T>
  SlimBlocks(const AttentionForward<T>& a, Index rows)
      : threads(std::min<Index>(slim_threads, (std::max(a.queries, a.keys) + 31) / 32 * 32)),
        blocks(a.sequences * a.heads * ((rows + threads - 1) / threads)) {}
};

/// launch(width): for the narrowest row that holds a head, as a constant.
template <class F>
void with_slim_width(Index width, F launch) {
  if (width <= 8)
    launch(std::integral_constant<int, 8>());
  else if (width <= 16)
    launch(std::integral_constant<int, 16>());
  else if (width <= 20)
    launch(std::integral_constant<int, 20>());
  else if (width <= 24)
    launch(std::integral_constant<int, 24>());
  else
    launch(std::integral_constant<int, 32>());
}

template <class T>
void launch_attention_slim(const AttentionForward<T>& a) {
  const SlimBlocks own(a, a.queries);
  with_slim_width(a.width, [&](auto width) {
    launch_early(slim_forward_kernel<width()>, blocks_for(own.blocks, 1), static_cast<unsigned>(own.threads),
                 0, a);
  });
}

/// dq, dk and dv, where they are wanted.
template <class T>
void launch_attention_slim(const AttentionBackward<T>& a) {
  const SlimBlocks by_query(a.forward, a.dq ? a.forward.queries : 0),
      by_key(a.forward, a.dk || a.dv ? a.forward.keys : 0);
  if (by_query.blocks + by_key.blocks == 0) return;
  with_slim_width(a.forward.width, [&](auto width) {
    launch_early(slim_backward_kernel<width()>, blocks_for(by_query.blocks + by_key.blocks, 1),
                 static_cast<unsigned>(by_query.threads), 0, a, by_query.blocks);
  });
}

}  // namespace mole::detail
