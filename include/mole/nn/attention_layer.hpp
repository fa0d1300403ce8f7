#pragma once
// Attention between projections. The projections are groups of slots; whoever calls says how a group is applied,
// with or without experts, and what comes before and after: norms and residuals differ from family to family.

#include <concepts>
#include <cstddef>
#include <vector>

#include <mole/nn/kv_cache.hpp>
#include <mole/ops/attention.hpp>

namespace mole {

/// The numbers of an attention layer's groups of slots.
struct AttentionGroups {
  std::size_t queries = 0;  ///< q, k, v of self-attention, or q of cross-attention
  std::size_t memory = 0;   ///< k, v of cross-attention
  std::size_t output = 0;   ///< o
};

/// apply(group, x): the outputs of a group's slots for their shared input x [S, L, d_in].
template <class F, class T, class B>
concept GroupApply = requires(const F& apply, std::size_t group, const Tensor<T, B>& x) {
  { apply(group, x) } -> std::same_as<std::vector<Tensor<T, B>>>;
};

/// o(attention(q, k, v of x)).  x [S, L, d]; options: heads, bias [H, L, Lk], masks of the keys.
/// With a cache, the new keys and values are appended to it and all of them attended to.
template <class T, class B, GroupApply<T, B> F>
Tensor<T, B> self_attention(const F& apply, const AttentionGroups& groups, const Tensor<T, B>& x,
                            const AttentionOptions<T, B>& options, BlockCache<T, B>* cache = nullptr) {
  auto qkv = apply(groups.queries, x);
  if (cache) cache->append(qkv[1], qkv[2]);
  return apply(groups.output, attention(qkv[0], qkv[1], qkv[2], options)).front();
}

/// o(attention(q of x, k and v of memory)).  x [S, Lt, d], memory [S, L, d']; options as for self_attention.
/// With a cache, k and v of the memory are computed once.
template <class T, class B, GroupApply<T, B> F>
Tensor<T, B> cross_attention(const F& apply, const AttentionGroups& groups, const Tensor<T, B>& x,
                             const Tensor<T, B>& memory, const AttentionOptions<T, B>& options,
                             BlockCache<T, B>* cache = nullptr) {
  BlockCache<T, B> own;
  auto& kept = cache ? *cache : own;
  if (!kept.memory_key.defined()) {
    auto kv = apply(groups.memory, memory);
    kept.memory_key = kv[0];
    kept.memory_value = kv[1];
  }
  const auto q = apply(groups.queries, x).front();
  return apply(groups.output, attention(q, kept.memory_key, kept.memory_value, options)).front();
}

}  // namespace mole
