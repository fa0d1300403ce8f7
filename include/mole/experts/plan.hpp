#pragma once
// Which gates a model has for the chosen policies, what each reads, and which slots it mixes.
//
// A gate belongs to a (scope, token stream). It reads its entry group: the first adapted slots of the scope
// that share one input. A decoder's sequence gates must not see the decoder's own tokens; they read the
// memory at their block's cross-attention k, v, or the pooled memory itself where no expert adapts those.

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <mole/nn/slots.hpp>

namespace mole {

/// One gate of a model with its place.
template <class T, class B>
struct PlacedGate {
  std::string
      name;  ///< scope, with @memory where a decoder's scope reads the encoder's tokens by token gates
  Stream stream = Stream::encoder;  ///< whose tokens a token gate has a row for
  std::size_t source = 0;           ///< the group whose input it reads
  std::vector<std::size_t> reads;   ///< the adapted slots it reads; empty: the input itself
  /// Its parameters and experts. With Arrow, `weight` holds the prototypes and does not train; with X-LoRA it
  /// is undefined.
  Gate<T, B> gate;
};

/// The gates of a model and the gate of each slot.
template <class T, class B>
struct GatePlan {
  std::vector<PlacedGate<T, B>> gates;  ///< without parameters
  std::vector<std::size_t> gate_of;     ///< by slot; of no meaning where no expert adapts it
};

namespace detail {

/// The gate's name for a slot of a stream. Sequence gates do not depend on the stream.
inline std::string gate_name(const std::string& slot, Stream stream, const GateOptions& policies) {
  const auto scope = scope_of(slot, policies.scope);
  if (policies.pooling != Pooling::token) return scope;
  // One gate covers a network's encoder tokens, whether the encoder or cross-attention reads them.
  const bool memory =
      stream == Stream::memory || (policies.scope == Scope::network && stream == Stream::encoder);
  return memory ? scope + "@memory" : scope;
}

/// The group that reads the memory in the block of `slot`.
template <class T, class B>
std::size_t memory_group(const SlotTable<T, B>& table, const std::string& slot) {
  const auto block = scope_of(slot, Scope::block);
  for (std::size_t g = 0; g < table.groups.size(); ++g)
    if (table.groups[g].stream == Stream::memory &&
        scope_of(table.slots[table.groups[g].slots.front()].name, Scope::block) == block)
      return g;
  throw ArgumentError("attach: sequence gates of " + block +
                      " have no context to read: the block has no cross-attention; use token pooling");
}

}  // namespace detail

/// Places gates for experts at some slots: `adapters` lists the experts of each slot.
/// Throws ArgumentError where a decoder's sequence gate has no memory to read.
template <class T, class B>
GatePlan<T, B> plan_gates(const SlotTable<T, B>& table, const std::vector<std::vector<Index>>& adapters,
                          const GateOptions& policies) {
  GatePlan<T, B> plan{{}, std::vector<std::size_t>(table.slots.size())};
  std::map<std::string, std::size_t> by_name;
  std::vector<std::set<Index>> held;
  for (std::size_t g = 0; g < table.groups.size(); ++g) {
    const auto& group = table.groups[g];
    for (const std::size_t slot : group.slots) {
      if (adapters[slot].empty()) continue;
      const auto name = detail::gate_name(table.slots[slot].name, group.stream, policies);
      const auto [found, is_new] = by_name.emplace(name, plan.gates.size());
      if (is_new) {
        const bool from_memory = policies.pooling != Pooling::token && group.stream != Stream::encoder;
        const std::size_t source = from_memory ? detail::memory_group(table, table.slots[slot].name) : g;
        plan.gates.push_back({name, group.stream, source, {}, {}});
        held.emplace_back();
      }
      plan.gate_of[slot] = found->second;
      held[found->second].insert(adapters[slot].begin(), adapters[slot].end());
    }
  }
  for (std::size_t i = 0; i < plan.gates.size(); ++i) {
    auto& placed = plan.gates[i];
    placed.gate.experts.assign(held[i].begin(), held[i].end());
    if (policies.input == GateInput::hidden) continue;
    // A decoder's sequence gate reads its block's k, v whether or not they are in its own scope.
    const bool foreign =
        policies.pooling != Pooling::token && table.groups[placed.source].stream == Stream::memory;
    for (const std::size_t slot : table.groups[placed.source].slots) {
      const bool any = std::any_of(adapters[slot].begin(), adapters[slot].end(),
                                   [&](Index expert) { return held[i].count(expert) > 0; });
      if (any && (foreign || plan.gate_of[slot] == i)) placed.reads.push_back(slot);
    }
  }
  return plan;
}

}  // namespace mole
