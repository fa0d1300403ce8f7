#pragma once
// Attention of one query a sequence, as a decoder's steps have it: what takes time is reading the keys and values.
//
//   s_j = scale <q, k_j> + bias_j, y = sum_j exp(s_j - log_sum) v_j
//
// A block owns a head of a sequence. A group of neighbouring lanes has a key at a time, 16 bytes of it each, and keeps
// the largest of its scores, the sum of their exponentials, and y by these. At the end the block puts its groups together.

#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include <mole/backends/cuda/attention_head.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/pack.cuh>
#include <mole/backends/cuda/rows.cuh>
#include <mole/core/kernels/attention.hpp>

namespace mole::detail {

/// y and log_sum of a query, by groups of `lanes` lanes, a power of two up to 32.
template <int Threads, class T>
__global__ void __launch_bounds__(Threads)
    attention_query_kernel(const __grid_constant__ AttentionForward<T> a, int lanes) {
  using V = Compute<T>;
  constexpr int n = Pack<T>::size, keys_at_once = 4;
  constexpr V lowest = -std::numeric_limits<V>::infinity();
  __shared__ V tops[Threads], totals[Threads], parts[Threads * n];
  follow_earlier();
  const int lane = static_cast<int>(threadIdx.x) % lanes, group = static_cast<int>(threadIdx.x) / lanes,
            groups = Threads / lanes;
  const Index head = blockIdx.x % a.heads, sequence = blockIdx.x / a.heads, stride = a.heads * a.width;
  const Index q_at = sequence * stride + head * a.width,
              kv_at = sequence * a.keys * stride + head * a.width + lane * n;
  const bool holds_columns = lane * n < a.width;
  const Pack<T> q = holds_columns ? load_pack(a.q + q_at + lane * n) : Pack<T>{};

  V top = lowest, total = 0, y[n] = {};
  // As many rounds for every group, so that the lanes of a warp meet.
  for (Index first = 0; first < a.keys; first += Index{keys_at_once} * groups) {
    Pack<T> k[keys_at_once], v[keys_at_once];
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u) {
      const Index j = first + u * groups + group;
      const bool there = holds_columns && j < a.keys;
      k[u] = there ? load_pack(a.k + kv_at + j * stride) : Pack<T>{};
      v[u] = there ? load_pack(a.v + kv_at + j * stride) : Pack<T>{};
    }
    V s[keys_at_once] = {};
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u)
#pragma unroll
      for (int e = 0; e < n; ++e) s[u] += static_cast<V>(q.values[e]) * static_cast<V>(k[u].values[e]);
    for (int step = lanes / 2; step > 0; step /= 2)
#pragma unroll
      for (int u = 0; u < keys_at_once; ++u) s[u] += __shfl_xor_sync(0xffffffffu, s[u], step);
    V next = top;
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u) {
      const Index j = first + u * groups + group;
      s[u] = attention_visible(a, sequence, 0, j) ? a.scale * s[u] + attention_bias(a, head, 0, j) : lowest;
      next = s[u] > next ? s[u] : next;
    }
    const V base = next == lowest ? V(0) : next, before = top == lowest ? V(0) : exp(top - base);
    top = next;
    total *= before;
#pragma unroll
    for (int e = 0; e < n; ++e) y[e] *= before;
#pragma unroll
    for (int u = 0; u < keys_at_once; ++u) {
      const V p = s[u] == lowest ? V(0) : exp(s[u] - base);
      total += p;
#pragma unroll
      for (int e = 0; e < n; ++e) y[e] += p * static_cast<V>(v[u].values[e]);
    }
  }

  if (lane == 0) tops[group] = top, totals[group] = total;
#pragma unroll
  for (int e = 0; e < n; ++e) parts[static_cast<int>(threadIdx.x) * n + e] = y[e];
  __syncthreads();
  V highest = lowest;
  for (int g = 0; g < groups; ++g) highest = tops[g] > highest ? tops[g] : highest;
  const V base = highest == lowest ? V(0) : highest;
  const int c = static_cast<int>(threadIdx.x);
  V sum = 0, of_c = 0;
  for (int g = 0; g < groups; ++g) {
    const V by = tops[g] == lowest ? V(0) : exp(tops[g] - base);
    sum += totals[g] * by;
    if (c < a.width) of_c += parts[g * lanes * n + c] * by;
  }
  if (c < a.width) a.y[q_at + c] = static_cast<T>(sum > V(0) ? of_c / sum : V(0));
  if (c == 0) a.log_sum[sequence * a.heads + head] = sum > V(0) ? base + std::log(sum) : -lowest;
}

/// Whether the kernel takes these: one query, and heads of whole packs that a warp can hold.
template <class T>
bool attention_query_fits(const AttentionForward<T>& a) {
  return a.queries == 1 && a.width <= 32 * Pack<T>::size && whole_packs({a.q, a.k, a.v}, {a.width});
}

/// Many keys get more threads, which have more reads under way.
template <class T>
void launch_attention_query(const AttentionForward<T>& a) {
  if (a.sequences * a.heads == 0) return;
  const auto packs = static_cast<unsigned>(a.width / Pack<T>::size);
  const auto launch = [&](auto threads) {
    launch_early(attention_query_kernel<threads(), T>, blocks_for(a.sequences * a.heads, 1), threads(), 0, a,
                 static_cast<int>(std::bit_ceil(packs)));
  };
  a.keys <= 128 ? launch(std::integral_constant<int, 256>()) : launch(std::integral_constant<int, 1024>());
}

}  // namespace mole::detail
