#pragma once
// A bank of experts that are not all in memory. Whole are A' at the slots that gates read, as a gate reads the outputs of
// all its experts. The rest are pages.

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/expert_pages.hpp>

namespace mole {

namespace detail {

/// The extents of an expert at a slot. Throws FormatError unless they are those of the layer.
template <class T, class B>
FactorShape fitting_shape(const ExpertFactors<T>& factors, const std::string& adapter,
                          const Slot<T, B>& slot) {
  const auto found = factors.shape(slot.name);
  MOLE_CHECK_FORMAT(found.rank == 0 || Shape({found.d_out, found.d_in}) == slot.shape, "adapter", adapter,
                    "expects", slot.name, "to be", Shape({found.d_out, found.d_in}), "but this model's is",
                    slot.shape, "; it was trained for another base");
  return found;
}

/// A' of part k of a stack, with rows of zeros up to the part's rank.
template <class T, class B>
std::vector<T> part_A(const ExpertStack<T, B>& stack, std::size_t k, const ExpertFactors<T>& factors,
                      const Slot<T, B>& slot) {
  const auto rows = static_cast<std::size_t>(stack.ends[k] - begin_of(stack, k));
  std::vector<T> A(rows * static_cast<std::size_t>(slot.shape[1]));
  if (factors.shape(slot.name).rank == 0) return A;
  std::vector<T> Q(rows * static_cast<std::size_t>(slot.shape[0]));
  factors.read(slot.name, A.data(), Q.data());
  return A;
}

/// Throws ArgumentError unless gates of these policies leave few experts to each sequence, so that the others need not
/// be in memory.
template <class T, class B>
void check_can_page(const SlotTable<T, B>& table, const GatePlan<T, B>& plan,
                    const std::vector<std::vector<Index>>& adapters, const GatePlacement& policies,
                    bool made_of_experts) {
  MOLE_CHECK_ARG(
      policies.top_k > 0 && policies.pooling != Pooling::token && !made_of_experts,
      "attach: experts that are not all in memory take gates of sequences with a top-k that are not "
      "made of the experts; attach them whole, or choose mean pooling and a top-k");
  for (std::size_t slot = 0; slot < adapters.size(); ++slot) {
    if (adapters[slot].empty()) continue;
    const auto& own = table.slots[slot];
    MOLE_CHECK_ARG(!own.is_spatial(), "attach:", own.name,
                   "is a convolution, whose experts have to be in memory; attach them whole");
    MOLE_CHECK_ARG(
        (plan.gate_of[slot] != GatePlan<T, B>::outside), "attach:", own.name,
        "has no gate at this scope, so that all its experts have to be in memory; attach them whole");
  }
}

}  // namespace detail

/// Lays out the experts without reading more of them than their A' at the slots that gates read, and tells the pages
/// which slots there are.
/// `adapters` and `plan` as adapted_slots() and plan_gates() made them.    Throws FormatError for an adapter of another
/// base, ArgumentError for a list of factors unlike the sets, and what reading throws.
template <class T, class B>
ExpertBank<T, B> paged_bank(const SlotTable<T, B>& table, const PagedExperts<T>& experts,
                            const std::vector<std::vector<Index>>& adapters, const GatePlan<T, B>& plan,
                            ExpertPages<T, B>& pages) {
  MOLE_CHECK_ARG(experts.factors.size() == experts.sets.size(), "attach: got", experts.factors.size(),
                 "experts' factors for", experts.sets.size(), "adapters");
  auto bank = named_bank(table, experts.sets);
  std::vector<bool> is_read(table.slots.size());
  for (const auto& placed : plan.gates)
    for (const std::size_t slot : placed.reads) is_read[slot] = true;
  for (std::size_t slot = 0; slot < adapters.size(); ++slot) {
    if (adapters[slot].empty()) continue;
    const auto& own = table.slots[slot];
    const auto& gate_experts = plan.gates[plan.gate_of[slot]].gate.experts;
    auto& stack = bank.stacks[slot];
    std::vector<Index> columns;
    std::vector<T> A;
    for (const Index expert : adapters[slot]) {
      const auto at = static_cast<std::size_t>(expert);
      const auto& factors = *experts.factors[at];
      const auto shape = detail::fitting_shape(factors, experts.sets[at].name, own);
      const auto column = std::lower_bound(gate_experts.begin(), gate_experts.end(), expert);
      for (Index k = 0; k < shape.rank; ++k) columns.push_back(column - gate_experts.begin());
      stack.experts.push_back(expert);
      stack.ends.push_back(static_cast<Index>(columns.size()));
      if (!is_read[slot]) continue;
      const auto part = detail::part_A(stack, stack.ends.size() - 1, factors, own);
      A.insert(A.end(), part.begin(), part.end());
    }
    const auto R = static_cast<Index>(columns.size());
    stack.column = Tensor<Index, B>::from({R}, columns);
    if (is_read[slot]) stack.A = Tensor<T, B>::from({R, own.shape[1]}, A);
    pages.add_slot(slot, own.name, own.shape[1], own.shape[0], largest_rank(stack));
  }
  return bank;
}

/// Puts an adapter in the place of expert number `expert`, in the same memory.    Throws as replace_expert(), and what
/// opening the adapter's factors throws; nothing changes then.
template <class T, class B>
void replace_paged_expert(const SlotTable<T, B>& table, ExpertBank<T, B>& bank, std::size_t expert,
                          const LoraSet& set, const decltype(PagedExperts<T>::open)& open,
                          ExpertPages<T, B>& pages) {
  check_replacement(table, bank, expert, set);
  MOLE_CHECK_ARG(open,
                 "replace: these experts cannot be replaced, as they came without a way to open others");
  const auto factors = open(set);
  struct Part {
    std::size_t slot;
    Index first;
    std::vector<T> A;
  };
  std::vector<Part> parts;
  std::size_t placed = 0;
  for (std::size_t slot = 0; slot < bank.stacks.size(); ++slot) {
    const auto& stack = bank.stacks[slot];
    const auto found = std::find(stack.experts.begin(), stack.experts.end(), static_cast<Index>(expert));
    if (found == stack.experts.end()) continue;
    const auto k = static_cast<std::size_t>(found - stack.experts.begin());
    const auto shape = detail::fitting_shape(*factors, set.name, table.slots[slot]);
    check_room(set, table.slots[slot].name, shape.rank, stack.ends[k] - begin_of(stack, k));
    placed += shape.rank > 0 ? 1 : 0;
    if (stack.A.defined())
      parts.push_back({slot, begin_of(stack, k), detail::part_A(stack, k, *factors, table.slots[slot])});
  }
  check_all_placed(set, placed, bank.names[expert]);
  for (const auto& part : parts) {
    const auto& A = bank.stacks[part.slot].A;
    B::upload(A.data() + part.first * A.size(1), part.A.data(), static_cast<Index>(part.A.size()));
  }
  pages.replace(expert, factors);
  bank.names[expert] = set.name;
  bank.digests[expert] = set.digest;
}

}  // namespace mole
