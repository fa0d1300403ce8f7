#pragma once
// A group's slots as layers whose experts have known weights, for mixtures_off_tape().

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include <mole/experts/ops/mixtures_off_tape.hpp>
#include <mole/nn/slots.hpp>

namespace mole::detail {

/// The slot without experts; nothing where it is more than a frozen matrix.
template <class T, class B>
std::optional<KnownMixture<T, B>> known_layer(const Slot<T, B>& slot) {
  if (slot.is_spatial() || slot.lora.defined()) return {};
  return KnownMixture<T, B>{.W = slot.product(), .c = slot.bias};
}

/// The outputs of slots without experts for their input x, by mixtures_off_tape(); nothing where they go one by one.
template <class T, class B>
std::vector<Tensor<T, B>> bare_outputs(const SlotTable<T, B>& table, const std::vector<std::size_t>& slots,
                                       const Tensor<T, B>& x, bool early) {
  std::vector<KnownMixture<T, B>> layers;
  for (const std::size_t number : slots) {
    auto layer = known_layer(table.slots[number]);
    if (!layer) return {};
    layers.push_back(std::move(*layer));
  }
  return mixtures_off_tape(x, layers, early);
}

}  // namespace mole::detail
