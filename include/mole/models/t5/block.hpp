#pragma once
// The blocks of T5: pre-norm attention and feed-forward layers over a model's adapted linear layers.

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/mixer.hpp>
#include <mole/nn/rounded_norm.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/attention.hpp>
#include <mole/ops/gather.hpp>

namespace mole {

/// The bucket of a key's position relative to the query's (Raffel et al. 2020): exact when near, logarithmic
/// up to max_distance, one for all beyond; both directions share the buckets if bidirectional.
inline Index relative_position_bucket(Index key_minus_query, bool bidirectional, Index buckets,
                                      Index max_distance) {
  Index base = 0, distance = -key_minus_query;
  if (bidirectional) {
    buckets /= 2;
    if (key_minus_query > 0) base = buckets;
    distance = std::abs(key_minus_query);
  } else if (distance < 0) {
    distance = 0;
  }
  const Index exact = buckets / 2;
  if (distance < exact) return base + distance;
  // In float and in this order, as the original computes it: a boundary must not fall one bucket off.
  const float ratio =
      std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const Index far = exact + static_cast<Index>(ratio * static_cast<float>(buckets - exact));
  return base + std::min(far, buckets - 1);
}

/// T5's position bias [H, Lq, Lk] from its table [buckets, H], for queries at positions Lk - Lq and on.
/// Pullback: scatter-add into the table.
template <class T, class B>
Tensor<T, B> position_bias(const Tensor<T, B>& table, Index queries, Index keys, bool bidirectional,
                           Index max_distance) {
  std::vector<Index> buckets;
  buckets.reserve(static_cast<std::size_t>(queries * keys));
  for (Index i = 0; i < queries; ++i)
    for (Index j = 0; j < keys; ++j)
      buckets.push_back(
          relative_position_bucket(j - (i + keys - queries), bidirectional, table.size(0), max_distance));
  return permute(gather(table, Tensor<Index, B>::from({queries, keys}, buckets)), {2, 0, 1});
}

/// An attention layer: its norm and the numbers of its slot groups.
template <class T, class B>
struct AttentionLayer {
  Tensor<T, B> norm;        ///< [d_model]
  std::size_t queries = 0;  ///< the group q, k, v of self-attention, or q of cross-attention
  std::size_t memory = 0;   ///< the group k, v of cross-attention
  std::size_t output = 0;   ///< the group o
};

/// A feed-forward layer: its norm and the groups wi (or wi_0, wi_1) and wo.
template <class T, class B>
struct FeedForwardLayer {
  Tensor<T, B> norm;
  std::size_t input = 0;
  std::size_t output = 0;
};

/// Keys and values [S, L, H d] a decoder block has seen.
template <class T, class B>
struct BlockCache {
  Tensor<T, B> key, value;                ///< of its own tokens
  Tensor<T, B> memory_key, memory_value;  ///< of the encoder's, computed once
};

/// What every layer of a pass has in common.
template <class T, class B>
struct LayerContext {
  const AdaptedLayers<T, B>& layers;
  MolePass<T, B>& pass;
  Index heads;
  Compute<T> epsilon;
  bool round_norms = false;  ///< as T5::round_norms

  /// The norm before a layer.  x [.., d_model], weight [d_model]
  Tensor<T, B> norm(const Tensor<T, B>& x, const Tensor<T, B>& weight) const {
    return round_norms ? rounded_rms_norm(x, weight, epsilon) : rms_norm(x, weight, epsilon);
  }
};

/// x + o(attention(q, k, v of norm(x))).  x [S, L, d_model], bias [H, L, Lk] or undefined.
/// With a cache, the new keys and values are appended to it and all of them attended to.
template <class T, class B>
Tensor<T, B> self_attention(const LayerContext<T, B>& context, const AttentionLayer<T, B>& layer,
                            const Tensor<T, B>& x, const Tensor<T, B>& bias, const Tensor<T, B>& key_mask,
                            bool causal, BlockCache<T, B>* cache = nullptr) {
  auto qkv = context.layers(layer.queries, context.norm(x, layer.norm), context.pass);
  if (cache) {
    if (cache->key.defined()) {
      qkv[1] = concat<T, B>({cache->key, qkv[1]}, 1);
      qkv[2] = concat<T, B>({cache->value, qkv[2]}, 1);
    }
    cache->key = qkv[1];
    cache->value = qkv[2];
  }
  const auto y = attention(qkv[0], qkv[1], qkv[2], {context.heads, 1, bias, key_mask, causal});
  return add(x, context.layers(layer.output, y, context.pass)[0]);
}

/// x + o(attention(q of norm(x), k and v of memory)).  x [S, Lt, d_model], memory [S, L, d_model].
template <class T, class B>
Tensor<T, B> cross_attention(const LayerContext<T, B>& context, const AttentionLayer<T, B>& layer,
                             const Tensor<T, B>& x, const Tensor<T, B>& memory,
                             const Tensor<T, B>& memory_mask, BlockCache<T, B>* cache = nullptr) {
  Tensor<T, B> k, v;
  if (cache && cache->memory_key.defined()) {
    k = cache->memory_key;
    v = cache->memory_value;
  } else {
    auto kv = context.layers(layer.memory, memory, context.pass);
    k = std::move(kv[0]);
    v = std::move(kv[1]);
  }
  if (cache) {
    cache->memory_key = k;
    cache->memory_value = v;
  }
  const auto q = context.layers(layer.queries, context.norm(x, layer.norm), context.pass)[0];
  const auto y = attention(q, k, v, {context.heads, 1, {}, memory_mask, false});
  return add(x, context.layers(layer.output, y, context.pass)[0]);
}

/// use(f) with the functor f of an activation's Hugging Face name. Throws ArgumentError for an unknown one.
template <class F>
auto with_activation(const std::string& name, F use) {
  if (name == "relu") return use(functor::Relu{});
  if (name == "gelu") return use(functor::Gelu{});
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return use(functor::GeluTanh{});
  if (name == "silu" || name == "swish") return use(functor::Swish{1.0});
  if (name == "quick_gelu") return use(functor::Swish{1.702});
  throw ArgumentError("unknown activation \"" + name +
                      "\": known are relu, gelu, gelu_new, silu, quick_gelu");
}

/// x + wo(act(wi n)), or x + wo(act(wi_0 n) * (wi_1 n)) when the group holds two slots; n = norm(x).
template <class T, class B>
Tensor<T, B> feed_forward(const LayerContext<T, B>& context, const FeedForwardLayer<T, B>& layer,
                          const std::string& activation, const Tensor<T, B>& x) {
  const auto inner = context.layers(layer.input, context.norm(x, layer.norm), context.pass);
  const auto y = with_activation(
      activation, [&](auto f) { return inner.size() == 2 ? glu(inner[0], inner[1], f) : map(inner[0], f); });
  return add(x, context.layers(layer.output, y, context.pass)[0]);
}

}  // namespace mole
