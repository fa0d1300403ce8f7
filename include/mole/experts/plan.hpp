#pragma once
// Which gates a model has for the chosen policies, what each reads, and which slots it mixes.
//
// A gate belongs to a scope and, if it has one row a token, to a token stream. It reads its entry group: the
// first adapted slots of the scope that share one input. Where the model says that a group's context is the
// memory, a sequence gate reads the memory's group instead: the experts' outputs there, or the pooled memory
// itself where no expert adapts it.

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include <mole/experts/gate.hpp>
#include <mole/nn/slots.hpp>

namespace mole {

/// One gate of a model with its place.
template <class T, class B>
struct PlacedGate {
  std::string name;        ///< its scope, with @memory for token gates on another stream than its home
  std::size_t stream = 0;  ///< whose tokens a token gate has a row for
  std::string tokens;      ///< that stream's name, or "memory" where it is not the block's own
  bool by_token = false;   ///< whether it has one row a token
  std::size_t source = 0;  ///< the group whose input it reads
  std::vector<std::size_t> reads;     ///< the adapted slots it reads; empty: the input itself
  Gate<T, B> gate;                    ///< its experts, and what its router keeps for it
  Tensor<T, B> L = {}, inverse = {};  ///< [d, d]: how it may be read of an input x [S, d] (narrow_read.hpp)
};

/// The gates of a model and the gate of each slot.
template <class T, class B>
struct GatePlan {
  /// In place of a gate's number: the slot is outside every scope, and its experts have fixed weights.
  static constexpr std::size_t outside = static_cast<std::size_t>(-1);

  std::vector<PlacedGate<T, B>> gates;  ///< without parameters
  std::vector<std::size_t> gate_of;     ///< by slot; of no meaning where no expert adapts it
};

namespace detail {

/// The group whose input a gate of sequences pools over, for slots of `group`.
template <class T, class B>
std::size_t context_group(const SlotTable<T, B>& table, std::size_t group) {
  const auto& here = table.groups[group];
  if (here.place.context != Context::memory) return group;
  MOLE_CHECK_ARG(here.memory < table.groups.size(), "attach: sequence gates of", here.place.block,
                 "have no context to read: the block has no cross-attention; use token pooling");
  return here.memory;
}

}  // namespace detail

/// Places gates for experts at some slots: `adapters` lists the experts of each slot. With `hidden_only`, token
/// gates off the stream of the last hidden state have one row a sequence: a router of two passes knows no more.
/// Slots that the model declares to be outside have no gate, but at matrix scope.
/// Throws ArgumentError where a sequence gate has no memory to read, a slot is in no such scope and not
/// declared to be outside, all slots are outside, or one token gate would serve tokens of several
/// resolutions.
template <class T, class B>
GatePlan<T, B> plan_gates(const SlotTable<T, B>& table, const std::vector<std::vector<Index>>& adapters,
                          const GatePlacement& policies, bool hidden_only = false) {
  const bool by_token = policies.pooling == Pooling::token;
  MOLE_CHECK_ARG(
      !(by_token && policies.scope == Scope::network && table.resolution_varies),
      "attach: one token gate for the whole network has no meaning in a model whose number of tokens varies; "
      "use another scope, or mean pooling");
  GatePlan<T, B> plan{{}, std::vector<std::size_t>(table.slots.size())};
  std::map<std::string, std::size_t> by_name;
  std::vector<std::size_t> from_memory;  // the gates that read it
  for (std::size_t g = 0; g < table.groups.size(); ++g) {
    const auto& place = table.groups[g].place;
    for (const std::size_t slot : table.groups[g].slots) {
      if (adapters[slot].empty()) continue;
      if (place.outside && policies.scope != Scope::matrix) {
        plan.gate_of[slot] = GatePlan<T, B>::outside;
        continue;
      }
      // Sequence gates do not depend on the stream.
      const bool off_home = by_token && place.stream != table.home_of(g, policies.scope);
      const std::string name = table.scope_of(slot, policies.scope) + (off_home ? "@memory" : "");
      const auto [found, is_new] = by_name.emplace(name, plan.gates.size());
      if (is_new) {
        const std::size_t source = by_token ? g : detail::context_group(table, g);
        const auto tokens = place.stream == place.home ? table.streams[place.stream] : "memory";
        const bool rows = by_token && !(hidden_only && place.stream != table.hidden_stream);
        if (!by_token && place.context == Context::memory) from_memory.push_back(plan.gates.size());
        plan.gates.push_back({name, place.stream, tokens, rows, source, {}, {}});
      }
      plan.gate_of[slot] = found->second;
      auto& experts = plan.gates[found->second].gate.experts;
      for (const Index expert : adapters[slot]) {
        const auto at = std::lower_bound(experts.begin(), experts.end(), expert);
        if (at == experts.end() || *at != expert) experts.insert(at, expert);
      }
    }
  }
  MOLE_CHECK_ARG(!plan.gates.empty(), "attach: the experts adapt nothing inside a", to_string(policies.scope),
                 "of this model, so that there is nothing to gate; use the scope matrix, or merge them");
  for (std::size_t i = 0; i < plan.gates.size(); ++i) {
    auto& placed = plan.gates[i];
    if (policies.input == GateInput::hidden) continue;
    const auto holds = [&experts = placed.gate.experts](Index expert) {
      return std::binary_search(experts.begin(), experts.end(), expert);
    };
    // What reads the memory reads it whether or not it is in the gate's own scope.
    const bool anywhere = std::find(from_memory.begin(), from_memory.end(), i) != from_memory.end();
    for (const std::size_t slot : table.groups[placed.source].slots) {
      const bool any = std::any_of(adapters[slot].begin(), adapters[slot].end(), holds);
      if (any && (anywhere || plan.gate_of[slot] == i)) placed.reads.push_back(slot);
    }
  }
  return plan;
}

}  // namespace mole
