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
  std::vector<GatedLayer<T, B>> layers;
  for (const std::size_t number : slots) {
    if (!bank.adapts(number)) continue;
    const auto& slot = table.slots[number];
    const auto& stack = bank.stacks[number];
    const auto& own = gates[gate_of[number]].gate;
    layers.push_back({slot.product(), slot.bias, stack.A, stack.Q, stack.column, own.weight, own.log_tau,
                      sets.mask_of(gate_of[number], pass), own.scale});
  }
  const auto mixtures = gated_mixtures(x, layers);
  std::vector<Tensor<T, B>> result;
  auto next = mixtures.begin();
  for (const std::size_t number : slots) {
    if (!bank.adapts(number)) {
      result.push_back(table.apply(number, x));
      continue;
    }
    pass.gates[gate_of[number]] = GateValue<T, B>{next->g, next->g};
    result.push_back((next++)->y);
  }
  return result;
}

}  // namespace mole::detail
