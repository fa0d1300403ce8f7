#pragma once
// Attention in bf16 and half on the matrix units: the formulas of attention.cuh, with sums in float. The weights p and
// their slopes ds are rounded before they are multiplied, as the other factors are.
//
// A block owns 64 rows (queries, or keys for dk and dv), 16 a warp, and walks the other side in tiles.

#include <limits>

#include <mole/backends/cuda/attention_head.cuh>
#include <mole/backends/cuda/attention_mma_tiles.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/rows.cuh>

namespace mole::detail {

/// y and log_sum of 64 queries.
template <int KD, Narrow T>
__global__ void __launch_bounds__(mma_threads)
    attention_mma_forward(const __grid_constant__ AttentionForward<T> a) {
  constexpr int tile = 64, tiles = tile / 8;
  extern __shared__ __align__(32) unsigned char shared[];
  T *const k = reinterpret_cast<T*>(shared), *const v = k + tile * mma_pitch<KD>;
  follow_earlier();
  const AttentionPlace at(blockIdx.x, a.queries, a.heads, mma_rows);
  const Index stride = a.heads * a.width, q_base = at.sequence * a.queries * stride + at.head * a.width,
              k_base = at.sequence * a.keys * stride + at.head * a.width;
  const MmaSide<KD, T> keys(a.k + k_base, stride, a.keys, a.width),
      values(a.v + k_base, stride, a.keys, a.width);
  const MmaLane lane;
  constexpr float lowest = -std::numeric_limits<float>::infinity(), log2_e = 1.4426950408889634f;

  std::uint32_t q[KD][4];
  MmaSide<KD, T>(a.q + q_base, stride, a.queries, a.width).template load<mma_rows>(at.first, k);
  __syncthreads();
#pragma unroll
  for (int kd = 0; kd < KD; ++kd)
    SharedMatrix<mma_pitch<KD>, T>{k}.load_a(static_cast<int>(threadIdx.x) / 32 * 16, 16 * kd, q[kd]);

  float y[2 * KD][4] = {}, top[2] = {lowest, lowest}, total[2] = {};
  const Index last_query = min(at.first + mma_rows, a.queries);
  const Index end = a.causal ? last_query + a.keys - a.queries : a.keys;
  for (Index first = 0; first < end; first += tile) {
    __syncthreads();
    keys.template load<tile>(first, k);
    values.template load<tile>(first, v);
    __syncthreads();
    float s[tiles][4];
    mma_scores<KD>(s, k, [&](int kd, std::uint32_t(&of_a)[4]) {
      for (int i = 0; i < 4; ++i) of_a[i] = q[kd][i];
    });
    const bool plain = !a.causal && !a.key_mask && !a.bias && first + tile <= a.keys;
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[n][i] *= a.scale;
        if (plain) continue;
        const Index query = at.first + lane.row + i / 2 * 8, key = first + 8 * n + lane.column + i % 2;
        s[n][i] = attention_visible(a, at.sequence, query, key)
                      ? s[n][i] + attention_bias(a, at.head, query, key)
                      : lowest;
      }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float next = top[half];
#pragma unroll
      for (int n = 0; n < tiles; ++n) next = fmaxf(next, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 1));
      next = fmaxf(next, __shfl_xor_sync(0xffffffffu, next, 2));
      const float base = next == lowest ? 0 : next * log2_e;
      const float before = top[half] == lowest ? 0 : exp2f(top[half] * log2_e - base);
      top[half] = next;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < tiles; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[n][i] = exp2f(s[n][i] * log2_e - base);
          sum += s[n][i];
        }
      total[half] = total[half] * before + sum;
#pragma unroll
      for (int n = 0; n < 2 * KD; ++n) {
        y[n][2 * half] *= before;
        y[n][2 * half + 1] *= before;
      }
    }
    mma_mix<KD>(y, s, v);
  }
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
    total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
    inverse[half] = total[half] > 0 ? 1 / total[half] : 0;
    const Index query = at.first + lane.row + 8 * half;
    if (lane.column == 0 && query < a.queries)
      a.log_sum[(at.sequence * a.heads + at.head) * a.queries + query] =
          total[half] > 0 ? top[half] + logf(total[half]) : -lowest;
  }
  mma_store<KD>(y, inverse, a.y + q_base, stride, at.first, a.queries, static_cast<int>(a.width));
}

/// <G, y> of a query, summed by four neighbouring lanes.
template <class T>
__device__ float mma_inner(const T* G, const T* y, int width) {
  float dot = 0;
  for (int c = static_cast<int>(threadIdx.x) % 4; c < width; c += 4)
    dot += static_cast<float>(G[c]) * static_cast<float>(y[c]);
  dot += __shfl_xor_sync(0xffffffffu, dot, 1);
  return dot + __shfl_xor_sync(0xffffffffu, dot, 2);
}

/// p and ds of a thread's C, in place of its scores s and of d = <G, v>.
template <class T>
__device__ __forceinline__ void mma_slopes(const AttentionForward<T>& f, const AttentionPlace& at,
                                           Index query, Index key, float log_sum, float inner, float& s,
                                           float& d) {
  const bool seen = attention_visible(f, at.sequence, query, key);
  const float p = seen ? __expf(f.scale * s + attention_bias(f, at.head, query, key) - log_sum) : 0;
  d = seen ? p * (d - inner) : 0;
  s = p;
}

/// dq of 64 queries.
template <int KD, Narrow T>
__global__ void __launch_bounds__(mma_threads)
    attention_mma_queries(const __grid_constant__ AttentionBackward<T> a) {
  constexpr int tile = 32, tiles = tile / 8;
  extern __shared__ __align__(32) unsigned char shared[];
  T *const q = reinterpret_cast<T*>(shared), *const G = q + mma_rows * mma_pitch<KD>,
           *const k = G + mma_rows * mma_pitch<KD>, *const v = k + tile * mma_pitch<KD>;
  follow_earlier();
  const auto& f = a.forward;
  const AttentionPlace at(blockIdx.x, f.queries, f.heads, mma_rows);
  const Index stride = f.heads * f.width, base = at.sequence * f.queries * stride + at.head * f.width,
              k_base = at.sequence * f.keys * stride + at.head * f.width;
  const int width = static_cast<int>(f.width), warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const MmaSide<KD, T> keys(f.k + k_base, stride, f.keys, f.width),
      values(f.v + k_base, stride, f.keys, f.width);
  const MmaLane lane;
  MmaSide<KD, T>(f.q + base, stride, f.queries, f.width).template load<mma_rows>(at.first, q);
  MmaSide<KD, T>(a.G + base, stride, f.queries, f.width).template load<mma_rows>(at.first, G);
  float log_sum[2] = {}, inner[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Index query = at.first + lane.row + 8 * half, row = min(query, f.queries - 1);
    inner[half] = mma_inner(a.G + base + row * stride, f.y + base + row * stride, width);
    log_sum[half] = f.log_sum[(at.sequence * f.heads + at.head) * f.queries + row];
  }
  float dq[2 * KD][4] = {};
  const Index last_query = min(at.first + mma_rows, f.queries);
  const Index end = f.causal ? last_query + f.keys - f.queries : f.keys;
  for (Index first = 0; first < end; first += tile) {
    __syncthreads();
    keys.template load<tile>(first, k);
    values.template load<tile>(first, v);
    __syncthreads();
    float s[tiles][4], d[tiles][4];
    mma_scores<KD>(s, k, [&](int kd, std::uint32_t(&of_a)[4]) {
      SharedMatrix<mma_pitch<KD>, T>{q}.load_a(warp_row, 16 * kd, of_a);
    });
    mma_scores<KD>(d, v, [&](int kd, std::uint32_t(&of_a)[4]) {
      SharedMatrix<mma_pitch<KD>, T>{G}.load_a(warp_row, 16 * kd, of_a);
    });
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        mma_slopes(f, at, at.first + lane.row + i / 2 * 8, first + 8 * n + lane.column + i % 2,
                   log_sum[i / 2], inner[i / 2], s[n][i], d[n][i]);
    mma_mix<KD>(dq, d, k);
  }
  const float by[2] = {f.scale, f.scale};
  mma_store<KD>(dq, by, a.dq + base, stride, at.first, f.queries, width);
}

/// dk and dv of 64 keys; either may be null.
template <int KD, Narrow T>
__global__ void __launch_bounds__(mma_threads)
    attention_mma_keys(const __grid_constant__ AttentionBackward<T> a) {
  constexpr int tile = 32, tiles = tile / 8;
  extern __shared__ __align__(32) unsigned char shared[];
  __shared__ float log_sums[tile], inners[tile];
  T *const k = reinterpret_cast<T*>(shared), *const v = k + mma_rows * mma_pitch<KD>,
           *const q = v + mma_rows * mma_pitch<KD>, *const G = q + tile * mma_pitch<KD>;
  follow_earlier();
  const auto& f = a.forward;
  const AttentionPlace at(blockIdx.x, f.keys, f.heads, mma_rows);
  const Index stride = f.heads * f.width, k_base = at.sequence * f.keys * stride + at.head * f.width,
              base = at.sequence * f.queries * stride + at.head * f.width;
  const int width = static_cast<int>(f.width), warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  const MmaSide<KD, T> queries(f.q + base, stride, f.queries, f.width),
      gradients(a.G + base, stride, f.queries, f.width);
  const MmaLane lane;
  MmaSide<KD, T>(f.k + k_base, stride, f.keys, f.width).template load<mma_rows>(at.first, k);
  MmaSide<KD, T>(f.v + k_base, stride, f.keys, f.width).template load<mma_rows>(at.first, v);
  float dk[2 * KD][4] = {}, dv[2 * KD][4] = {};
  // The first query that sees key j is j - (keys - queries).
  const Index unseen = f.causal ? at.first - (f.keys - f.queries) : 0;
  for (Index first = unseen > 0 ? unseen / tile * tile : 0; first < f.queries; first += tile) {
    __syncthreads();
    queries.template load<tile>(first, q);
    gradients.template load<tile>(first, G);
    {
      const int j = static_cast<int>(threadIdx.x) / 4;  // a query of the tile
      const Index row = min(first + j, f.queries - 1);
      const float dot = mma_inner(a.G + base + row * stride, f.y + base + row * stride, width);
      if (threadIdx.x % 4 == 0) {
        inners[j] = dot;
        log_sums[j] = f.log_sum[(at.sequence * f.heads + at.head) * f.queries + row];
      }
    }
    __syncthreads();
    float s[tiles][4], d[tiles][4];
    mma_scores<KD>(s, q, [&](int kd, std::uint32_t(&of_a)[4]) {
      SharedMatrix<mma_pitch<KD>, T>{k}.load_a(warp_row, 16 * kd, of_a);
    });
    mma_scores<KD>(d, G, [&](int kd, std::uint32_t(&of_a)[4]) {
      SharedMatrix<mma_pitch<KD>, T>{v}.load_a(warp_row, 16 * kd, of_a);
    });
#pragma unroll
    for (int n = 0; n < tiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int j = 8 * n + lane.column + i % 2;
        mma_slopes(f, at, first + j, at.first + lane.row + i / 2 * 8, log_sums[j], inners[j], s[n][i],
                   d[n][i]);
      }
    mma_mix<KD>(dv, s, G);
    mma_mix<KD>(dk, d, q);
  }
  const float one[2] = {1, 1}, by[2] = {f.scale, f.scale};
  if (a.dv) mma_store<KD>(dv, one, a.dv + k_base, stride, at.first, f.keys, width);
  if (a.dk) mma_store<KD>(dk, by, a.dk + k_base, stride, at.first, f.keys, width);
}

/// Heads up to this width are multiplied so, of batches with some queries each: fewer leave the matrix units' rows empty.
inline constexpr Index mma_widest = 128, mma_fewest_queries = 16;

/// f(std::integral_constant<int, KD>) of the narrowest kernel for heads of this width.
template <class F>
void with_mma_width(Index width, const F& f) {
  if (width <= 32) return f(std::integral_constant<int, 2>());
  if (width <= 48) return f(std::integral_constant<int, 3>());
  if (width <= 64) return f(std::integral_constant<int, 4>());
  if (width <= 80) return f(std::integral_constant<int, 5>());
  f(std::integral_constant<int, 8>());
}

/// Launches a kernel with `rows` rows of a head's width in shared memory, a block for each 64 of `count` rows of all heads.
template <int KD, Narrow T, class A>
void launch_mma_kernel(void (*kernel)(A), const A& a, Index heads, Index count, int rows) {
  const Index blocks = heads * ((count + mma_rows - 1) / mma_rows);
  if (blocks == 0) return;
  const int bytes = rows * mma_pitch<KD> * static_cast<int>(sizeof(T));
  MOLE_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  launch_early(kernel, blocks_for(blocks, 1), mma_threads, static_cast<std::size_t>(bytes), a);
}

template <Narrow T>
bool attention_mma_fits(const AttentionForward<T>& a) {
  return a.width <= mma_widest && a.queries >= mma_fewest_queries && a.keys > 0;
}

template <Narrow T>
void launch_attention_mma(const AttentionForward<T>& a) {
  with_mma_width(a.width, [&](auto kd) {
    launch_mma_kernel<kd(), T>(attention_mma_forward<kd(), T>, a, a.sequences * a.heads, a.queries, 2 * 64);
  });
}

/// dq, dk and dv; dbias is left alone.
template <Narrow T>
void launch_attention_mma(const AttentionBackward<T>& a) {
  const auto& f = a.forward;
  with_mma_width(f.width, [&](auto kd) {
    constexpr int rows = 2 * mma_rows + 2 * 32;
    if (a.dq)
      launch_mma_kernel<kd(), T>(attention_mma_queries<kd(), T>, a, f.sequences * f.heads, f.queries, rows);
    if (a.dk || a.dv)
      launch_mma_kernel<kd(), T>(attention_mma_keys<kd(), T>, a, f.sequences * f.heads, f.keys, rows);
  });
}

}  // namespace mole::detail
