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

  /// The outputs of a group's slots for their shared input x [S, L, d_in], in the group's order. early: all weights are
  /// older than the work that made x, as in a model, where a norm or the like comes between.
  std::vector<Tensor<T, B>> operator()(std::size_t group, const Tensor<T, B>& x, MolePass<T, B>& pass,
                                       bool early = false) const {
    if (pass.inputs) pass.inputs->see(group, x);
    if (mixer) return mixer->outputs(table, group, x, pass, early);
    const auto& slots = table.groups[group].slots;
    if constexpr (detail::has_row_layers<T, B>)
      if (auto made = detail::bare_outputs(table, slots, x, early); !made.empty()) return made;
    std::vector<Tensor<T, B>> result;
    for (const std::size_t slot : slots) result.push_back(table.apply(slot, x));
    return result;
  }
};

}  // namespace mole
