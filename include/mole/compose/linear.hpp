#pragma once
// Linear composition of adapters, the paper's starting point: their changes added into the weights.
//
//   eq. 1   W + sum_i s_i B_i A_i
//   eq. 2   W + sum_i w_i s_i B_i A_i, sum of w_i = 1

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mole/nn/slots.hpp>

namespace mole {

/// The weights of eq. 1: every adapter in full.
inline std::vector<double> sum_weights(std::size_t n) { return std::vector<double>(n, 1.0); }

/// The weights of eq. 2 with equal shares.
inline std::vector<double> mean_weights(std::size_t n) {
  return std::vector<double>(n, 1.0 / static_cast<double>(n));
}

namespace detail {

/// Which of the adapters adapt each slot. Throws as merge().
template <class T, class B>
std::unordered_map<std::string, std::vector<std::size_t>> adapting_sets(const SlotTable<T, B>& table,
                                                                        const std::vector<LoraSet>& sets,
                                                                        const std::vector<double>& weights) {
  MOLE_CHECK_ARG(!sets.empty(), "merge: the list of experts is empty; give at least one adapter");
  MOLE_CHECK_ARG(sets.size() == weights.size(), "merge: expected one weight for each of", sets.size(),
                 "adapters, got", weights.size());
  for (const double w : weights) MOLE_CHECK_ARG(is_finite(w), "merge: a weight is", w);
  std::unordered_map<std::string, std::vector<std::size_t>> adapting;
  for (std::size_t i = 0; i < sets.size(); ++i) {
    table.check_layers(sets[i]);
    for (const auto& name : sets[i].slots) adapting[name].push_back(i);
  }
  for (const auto& slot : table.slots)
    if (const auto found = adapting.find(slot.name); found != adapting.end())
      MOLE_CHECK_ARG(slot.weight.defined(), "merge: adapter", sets[found->second.front()].name, "adapts",
                     slot.name, "whose weight is not dense; merge into the model before it is quantised");
  return adapting;
}

inline std::string names_of(const std::vector<LoraSet>& sets, const std::vector<std::size_t>& own) {
  std::string names = own.size() == 1 ? "adapter " : "adapters ";
  for (const std::size_t i : own) names += (i == own.front() ? "" : ", ") + sets[i].name;
  return names;
}

/// W' = W + sum_i w_i s_i B_i A_i of one slot over the adapters `own`. Throws as merge().
template <class T, class B>
Tensor<T, B> merged_weight(const SlotTable<T, B>& table, const Slot<T, B>& slot,
                           const std::vector<LoraSet>& sets, const std::vector<double>& weights,
                           const std::vector<std::size_t>& own) {
  std::vector<double> change(static_cast<std::size_t>(slot.weight.size()));
  for (const std::size_t i : own) {
    const auto factors = table.fitting_factors(sets[i], slot.name);
    check_finite_factors(sets[i].name, slot.name, factors);
    const auto d = delta(factors);
    for (std::size_t j = 0; j < change.size(); ++j) change[j] += weights[i] * d[j];
  }
  auto values = slot.weight.to_host();
  for (std::size_t j = 0; j < values.size(); ++j)
    values[j] = static_cast<T>(static_cast<double>(values[j]) + change[j]);
  MOLE_CHECK_AS(NumericError, all_finite<T>(values), "merge:", slot.name, "would not be finite with",
                names_of(sets, own) + "; check their lora_alpha and weights, and the model's own numbers");
  return Tensor<T, B>::from(slot.weight.shape(), values);
}

/// Throws as merge() does where one slot's W' would. Computes it only where a bound of its numbers leaves it open.
template <class T, class B>
void check_merged(const SlotTable<T, B>& table, const Slot<T, B>& slot, const std::vector<LoraSet>& sets,
                  const std::vector<double>& weights, const std::vector<std::size_t>& own) {
  const auto largest = [](const auto& values) {
    double most = 0;
    for (const auto& value : values) most = std::max(most, std::abs(static_cast<double>(value)));
    return most;
  };
  const auto W = slot.weight.to_host();
  double most = largest(W);
  for (const std::size_t i : own) {
    const auto f = table.fitting_factors(sets[i], slot.name);
    check_factors("merge", f);
    check_finite_factors(sets[i].name, slot.name, f);
    most += std::abs(weights[i] * f.scale) * static_cast<double>(f.rank) * largest(f.A) * largest(f.B);
  }
  if (!all_finite<T>(W) || !fits_in<T>(2 * most)) merged_weight(table, slot, sets, weights, own);
}

}  // namespace detail

/// Merges the adapters, each times its weight, into every slot they adapt: W' = W + sum_i w_i s_i B_i A_i,
/// summed in double. What was merged before is replaced; the frozen W stays. Experts that are attached, before or
/// after, are mixed on top of W'; SlotTable::reset() and a model's detach() bring W back. Slot by slot: one slot's change
/// is held at a time, and the table is changed only when all of them are known.
/// Throws ArgumentError unless there is one finite weight an adapter, FormatError for an adapter of another
/// base, NumericError, naming adapter and slot, for factors or a W' that are not finite; then nothing has changed.
template <class T, class B>
void merge(SlotTable<T, B>& table, const std::vector<LoraSet>& sets, const std::vector<double>& weights) {
  const auto adapting = detail::adapting_sets(table, sets, weights);
  std::vector<Tensor<T, B>> merged(table.slots.size());
  for (std::size_t s = 0; s < table.slots.size(); ++s)
    if (const auto found = adapting.find(table.slots[s].name); found != adapting.end())
      merged[s] = detail::merged_weight(table, table.slots[s], sets, weights, found->second);
  for (std::size_t s = 0; s < table.slots.size(); ++s) table.slots[s].merged = std::move(merged[s]);
}

/// The same for good: W' takes the place of W, slot by slot, so that no second set of weights is in memory. What was
/// merged before is dropped. All factors are read twice: first to see that each can be and fits, and that each W' is
/// finite. Where one can be read but once, the slots before it have changed already.    Throws as merge().
template <class T, class B>
void merge_for_good(SlotTable<T, B>& table, const std::vector<LoraSet>& sets,
                    const std::vector<double>& weights) {
  const auto adapting = detail::adapting_sets(table, sets, weights);
  for (const auto& slot : table.slots)
    if (const auto found = adapting.find(slot.name); found != adapting.end())
      detail::check_merged(table, slot, sets, weights, found->second);
  for (auto& slot : table.slots) {
    slot.merged = {};
    if (const auto found = adapting.find(slot.name); found != adapting.end())
      slot.weight = detail::merged_weight(table, slot, sets, weights, found->second);
  }
}

/// Merges one adapter, such as compose() makes, in full. Throws FormatError for an adapter of another base,
/// NumericError for factors or a W' that are not finite.
template <class T, class B>
void merge(SlotTable<T, B>& table, const LoraSet& set) {
  merge(table, std::vector<LoraSet>{set}, {1.0});
}

}  // namespace mole
