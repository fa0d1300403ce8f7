#pragma once
// The output of one adapted slot of a model, for weights that are known.

#include <cstddef>
#include <utility>

#include <mole/experts/bank.hpp>
#include <mole/experts/ops/mixture.hpp>
#include <mole/experts/ops/spatial_mixture.hpp>
#include <mole/experts/pass.hpp>

namespace mole::detail {

/// A slot with the experts that adapt it.
template <class T, class B>
struct SlotMixer {
  const SlotTable<T, B>& table;
  const ExpertBank<T, B>& bank;
  std::size_t number;

  /// The output for x [S, L, d_in], or [S, H, W, C] of a convolution, with the experts' weights g. h is undefined where
  /// no gate has read it.
  Tensor<T, B> operator()(const Tensor<T, B>& x, Tensor<T, B> h, const Tensor<T, B>& g) const {
    const auto& slot = table.slots[number];
    const auto& stack = bank.stacks[number];
    if (slot.is_spatial()) {
      if (!h.defined()) h = as_tokens(slot.times(x, stack.A));
      return spatial_mixture(table.apply(number, x), h, g, stack.Q, stack.column);
    }
    if (!h.defined()) h = linear(x, stack.A);
    return mixture(x, slot.product(), slot.bias, h, g, stack.Q, stack.column);
  }

  /// Whether the few experts that top-k leaves to S sequences of L tokens should be mixed alone.
  bool pays(const Tensor<T, B>& x) const {
    return !table.slots[number].is_spatial() && bank.blocks[number].pay(x.size(0), x.size(1));
  }
  /// The output with those alone.
  Tensor<T, B> operator()(const Tensor<T, B>& x, const ChosenExperts<T, B>& chosen) const {
    const auto& slot = table.slots[number];
    return mix_chosen(x, slot.product(), slot.bias, bank.blocks[number], chosen);
  }
};

}  // namespace mole::detail
