#pragma once
// All experts of a model: who they are, and their canonical factors slot by slot.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/chosen_experts.hpp>
#include <mole/experts/expert_stack.hpp>
#include <mole/experts/paging.hpp>
#include <mole/experts/plan.hpp>
#include <mole/nn/slots.hpp>

namespace mole {

/// The experts that a model mixes. Slots that no expert adapts have undefined stacks.
template <class T, class B>
struct ExpertBank {
  std::vector<std::string> names;          ///< of the adapters, in the order they were given
  std::vector<std::string> digests;        ///< LoraSet::digest of each
  std::vector<ExpertStack<T, B>> stacks;   ///< by slot
  std::vector<ExpertBlocks<T, B>> blocks;  ///< by slot, where top-k leaves few
  /// Of experts that are not all in memory. The stacks then have A at the slots that gates read, and no Q.
  std::shared_ptr<Paging<T, B>> paging;

  Index size() const { return static_cast<Index>(names.size()); }
  bool adapts(std::size_t slot) const { return !stacks[slot].experts.empty(); }
};

/// The experts of each slot of `table`. Throws FormatError for an adapter of another base, ArgumentError for an
/// empty list or two adapters of one name.
template <class T, class B>
std::vector<std::vector<Index>> adapted_slots(const SlotTable<T, B>& table,
                                              const std::vector<LoraSet>& sets) {
  MOLE_CHECK_ARG(!sets.empty(), "attach: the list of experts is empty; give at least one adapter");
  std::vector<std::vector<Index>> adapters(table.slots.size());
  for (std::size_t i = 0; i < sets.size(); ++i) {
    table.check_layers(sets[i]);
    const auto same = [&](const LoraSet& other) { return other.name == sets[i].name; };
    MOLE_CHECK_ARG(std::none_of(sets.begin(), sets.begin() + static_cast<std::ptrdiff_t>(i), same),
                   "attach: two experts are named", sets[i].name);
    for (const auto& name : sets[i].slots) adapters[table.find(name)].push_back(static_cast<Index>(i));
  }
  return adapters;
}

/// A bank that knows its experts' names and holds nothing of them.
template <class T, class B>
ExpertBank<T, B> named_bank(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets) {
  ExpertBank<T, B> bank;
  for (const auto& set : sets) {
    bank.names.push_back(set.name);
    bank.digests.push_back(set.digest);
  }
  bank.stacks.resize(table.slots.size());
  bank.blocks.resize(table.slots.size());
  return bank;
}

/// Loads the experts one slot after another: no more than one slot's factors are on the host at a time.
/// `adapters` and `plan` as adapted_slots() and plan_gates() made them.    Throws FormatError for an adapter of
/// another base, NumericError for one whose factors are not finite, or are not once scaled.
template <class T, class B>
ExpertBank<T, B> load_experts(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets,
                              const std::vector<std::vector<Index>>& adapters, const GatePlan<T, B>& plan,
                              Index top_k) {
  auto bank = named_bank(table, sets);
  for (std::size_t slot = 0; slot < adapters.size(); ++slot) {
    if (adapters[slot].empty()) continue;
    const auto& name = table.slots[slot].name;
    std::vector<LoraFactors> parts;
    for (const Index expert : adapters[slot])
      parts.push_back(table.fitting_factors(sets[static_cast<std::size_t>(expert)], name));
    if (plan.gate_of[slot] == GatePlan<T, B>::outside) {
      std::vector<Index> all(sets.size());
      std::iota(all.begin(), all.end(), Index{0});
      bank.stacks[slot] = stack_experts<T, B>(adapters[slot], parts, all, name, bank.names);
      continue;
    }
    const auto& placed = plan.gates[plan.gate_of[slot]];
    const auto& stack = bank.stacks[slot] =
        stack_experts<T, B>(adapters[slot], parts, placed.gate.experts, name, bank.names);
    if (!placed.by_token && !table.slots[slot].is_spatial() && leaves_few(stack, top_k))
      bank.blocks[slot] = make_blocks(stack, placed.gate.n_experts(), top_k);
  }
  return bank;
}

/// Throws FormatError for an adapter of another base; ArgumentError unless there is an expert of this number, and no
/// other has the adapter's name.
template <class T, class B>
void check_replacement(const SlotTable<T, B>& table, const ExpertBank<T, B>& bank, std::size_t expert,
                       const LoraSet& set) {
  table.check_layers(set);
  MOLE_CHECK_ARG(expert < bank.names.size(), "replace: there is no expert", expert, "among",
                 bank.names.size());
  for (std::size_t i = 0; i < bank.names.size(); ++i)
    MOLE_CHECK_ARG(i == expert || bank.names[i] != set.name, "replace: another expert is named", set.name);
}

/// Throws ArgumentError where an adapter has a higher rank at a slot than there is room for.
inline void check_room(const LoraSet& set, const std::string& slot, Index rank, Index room) {
  MOLE_CHECK_ARG(rank <= room, "replace: adapter", set.name, "has rank", rank, "at", slot,
                 "where there is room for", room, "; attach the experts anew");
}

/// Throws ArgumentError unless all slots of an adapter were among those of the expert before it.
inline void check_all_placed(const LoraSet& set, std::size_t placed, const std::string& before) {
  MOLE_CHECK_ARG(placed == set.slots.size(), "replace: adapter", set.name, "adapts", set.slots.size(),
                 "layers, of which", before, "adapts", placed, "; attach the experts anew");
}

/// Puts an adapter in the place of expert number `expert`, in the same memory: what was captured stays valid. Slots that
/// the adapter leaves alone get zeros. Nothing changes where it throws: FormatError for an adapter of another base,
/// NumericError for one whose factors are not finite, or are not once scaled, ArgumentError where its name is another
/// expert's, where it adapts a slot that the one before did not, or has a higher rank there.
template <class T, class B>
void replace_expert(const SlotTable<T, B>& table, ExpertBank<T, B>& bank, std::size_t expert,
                    const LoraSet& set) {
  check_replacement(table, bank, expert, set);
  struct Part {
    std::size_t slot, number;
    CanonicalExpert expert;
  };
  std::vector<Part> parts;
  std::size_t placed = 0;
  for (std::size_t slot = 0; slot < bank.stacks.size(); ++slot) {
    const auto& stack = bank.stacks[slot];
    const auto found = std::find(stack.experts.begin(), stack.experts.end(), static_cast<Index>(expert));
    if (found == stack.experts.end()) continue;
    const auto number = static_cast<std::size_t>(found - stack.experts.begin());
    const auto& name = table.slots[slot].name;
    CanonicalExpert own{0, stack.A.size(1), stack.Q.size(0), {}, {}};
    if (std::find(set.slots.begin(), set.slots.end(), name) != set.slots.end()) {
      own = detail::canonical_in<T>(set.name, name, table.fitting_factors(set, name));
      check_room(set, name, own.rank, stack.ends[number] - begin_of(stack, number));
      ++placed;
    }
    parts.push_back({slot, number, std::move(own)});
  }
  check_all_placed(set, placed, bank.names[expert]);
  for (const auto& part : parts) {
    const auto& stack = bank.stacks[part.slot];
    replace_part(stack, part.number, part.expert);
    const auto& blocks = bank.blocks[part.slot];
    if (!blocks.defined()) continue;
    const auto first = static_cast<std::size_t>(begin_of(stack, part.number));
    copy_block(stack, part.number, stack.column.to_host()[first], blocks);
  }
  bank.names[expert] = set.name;
  bank.digests[expert] = set.digest;
}

/// Lays the experts of each group's slots side by side, so that one product can take them all.
template <class T, class B>
void gather_groups(const SlotTable<T, B>& table, ExpertBank<T, B>& bank) {
  for (const auto& group : table.groups) {
    std::vector<ExpertStack<T, B>*> stacks;
    for (const std::size_t slot : group.slots)
      if (bank.adapts(slot)) stacks.push_back(&bank.stacks[slot]);
    make_adjacent(stacks);
  }
}

}  // namespace mole
