#pragma once
// Linear composition of adapters, the paper's starting point: their changes added into the weights.
//
//   eq. 1   W + sum_i s_i B_i A_i
//   eq. 2   W + sum_i w_i s_i B_i A_i, sum of w_i = 1

#include <cmath>
#include <vector>

#include <mole/nn/slots.hpp>

namespace mole {

/// The weights of eq. 1: every adapter in full.
inline std::vector<double> sum_weights(std::size_t n) { return std::vector<double>(n, 1.0); }

/// The weights of eq. 2 with equal shares.
inline std::vector<double> mean_weights(std::size_t n) {
  return std::vector<double>(n, 1.0 / static_cast<double>(n));
}

/// Merges the adapters, each times its weight, into every slot they adapt: W' = W + sum_i w_i s_i B_i A_i,
/// summed in double. What was merged before is replaced; the frozen W stays.
/// Throws ArgumentError unless there is one finite weight an adapter, FormatError for an adapter of another
/// base.
template <class T, class B>
void merge(SlotTable<T, B>& table, const std::vector<LoraSet>& sets, const std::vector<double>& weights) {
  MOLE_CHECK_ARG(!sets.empty(), "merge: the list of experts is empty; give at least one adapter");
  MOLE_CHECK_ARG(sets.size() == weights.size(), "merge: expected one weight for each of", sets.size(),
                 "adapters, got", weights.size());
  for (const double w : weights) MOLE_CHECK_ARG(std::isfinite(w), "merge: a weight is", w);
  for (const auto& set : sets) table.check_layers(set);
  std::vector<std::vector<double>> change(table.slots.size());
  for (std::size_t i = 0; i < sets.size(); ++i)
    for (const auto& name : sets[i].slots) {
      const auto d = delta(table.fitting_factors(sets[i], name));
      auto& sum = change[table.find(name)];
      sum.resize(d.size());
      for (std::size_t j = 0; j < d.size(); ++j) sum[j] += weights[i] * d[j];
    }
  for (std::size_t s = 0; s < table.slots.size(); ++s) {
    auto& slot = table.slots[s];
    slot.merged = {};
    if (change[s].empty()) continue;
    auto values = slot.weight.to_host();
    for (std::size_t j = 0; j < values.size(); ++j)
      values[j] = static_cast<T>(static_cast<double>(values[j]) + change[s][j]);
    slot.merged = Tensor<T, B>::from(slot.weight.shape(), values);
  }
}

}  // namespace mole
