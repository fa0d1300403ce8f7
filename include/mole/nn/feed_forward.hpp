#pragma once
// Feed-forward layers between projections, plain or gated; see attention_layer.hpp for how groups are applied.

#include <cstddef>
#include <string>

#include <mole/nn/attention_layer.hpp>
#include <mole/ops/activation.hpp>

namespace mole {

/// The numbers of a feed-forward layer's groups of slots.
struct FeedForwardGroups {
  std::size_t input = 0;   ///< wi, or wi_0 and wi_1
  std::size_t output = 0;  ///< wo
};

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

/// wo(act(wi x)), or wo(act(wi_0 x) * (wi_1 x)) where the input group holds two slots.  x [S, L, d]
template <class T, class B, GroupApply<T, B> F>
Tensor<T, B> feed_forward(const F& apply, const FeedForwardGroups& groups, const std::string& activation,
                          const Tensor<T, B>& x) {
  const auto inner = apply(groups.input, x);
  const auto y = with_activation(
      activation, [&](auto f) { return inner.size() == 2 ? glu(inner[0], inner[1], f) : map(inner[0], f); });
  return apply(groups.output, y).front();
}

}  // namespace mole
