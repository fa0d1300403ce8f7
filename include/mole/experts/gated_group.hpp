#pragma once
// The outputs of a group of slots whose gates are made together with their mixtures.

#include <cstddef>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/gate_sets.hpp>
#include <mole/experts/ops/gated_mixture.hpp>
#include <mole/experts/pass.hpp>

namespace mole::detail {

/// The outputs of `slots` for their input x [S, L, d_in], in this order; gate_of has the gate of each slot of the table.
/// The pass gets the gates.
template <class T, class B>
std::vector<Tensor<T, B>> gated_outputs(const SlotTable<T, B>& table, const ExpertBank<T, B>& bank,
                                        const std::vector<std::size_t>& slots,
                                        const std::vector<std::size_t>& gate_of, const GateSets<T, B>& sets,
                                        const Tensor<T, B>& x, MolePass<T, B>& pass) {
  const auto& gates = sets.own().gates;
  pass.gates.resize(gates.size());
  const auto layer = [&](std::size_t number) {
    const auto& slot = table.slots[number];
    const auto& stack = bank.stacks[number];
    const auto& own = gates[gate_of[number]].gate;
    return GatedLayer<T, B>{slot.product(), slot.bias,  stack.A,     stack.Q,
                            stack.column,   own.weight, own.log_tau, sets.mask_of(gate_of[number], pass),
                            own.scale};
  };
  std::vector<Tensor<T, B>> result(slots.size());
  const auto take = [&](std::size_t k, const GatedMixture<T, B>& made) {
    pass.gates[gate_of[slots[k]]] = GateValue<T, B>{made.g, made.g};
    result[k] = made.y;
  };
  if constexpr (has_gate_kernels<T, B>) {
    std::vector<GatedLayer<T, B>> layers;
    for (const std::size_t number : slots)
      if (bank.adapts(number)) layers.push_back(layer(number));
    const auto mixtures = gated_mixtures(x, layers);
    auto next = mixtures.begin();
    for (std::size_t k = 0; k < slots.size(); ++k)
      if (bank.adapts(slots[k])) take(k, *next++);
  } else {
    for (std::size_t k = 0; k < slots.size(); ++k)
      if (bank.adapts(slots[k])) take(k, gated_mixture(x, layer(slots[k])));
  }
  for (std::size_t k = 0; k < slots.size(); ++k)
    if (!bank.adapts(slots[k])) result[k] = table.apply(slots[k], x);
  return result;
}

}  // namespace mole::detail
