#pragma once
// A model's linear layers and what is attached to them.

#include <cstddef>
#include <optional>
#include <vector>

#include <mole/experts/mixer.hpp>

namespace mole {

/// A model's linear layers with what is attached to them: the one thing its blocks call.
template <class T, class B>
struct AdaptedLayers {
  SlotTable<T, B> table;
  std::optional<Mixer<T, B>> mixer;

  /// The outputs of a group's slots for their shared input x [S, L, d_in], in the group's order.
  std::vector<Tensor<T, B>> operator()(std::size_t group, const Tensor<T, B>& x, MolePass<T, B>& pass) const {
    if (pass.inputs) pass.inputs->see(group, x);
    if (mixer) return mixer->outputs(table, group, x, pass);
    std::vector<Tensor<T, B>> result;
    for (const std::size_t slot : table.groups[group].slots) result.push_back(table.apply(slot, x));
    return result;
  }
};

}  // namespace mole
