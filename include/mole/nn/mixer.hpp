#pragma once
// MoLE over a whole model: which gates there are for the chosen policies, what each reads, and the mixing of
// every adapted slot in one forward pass.
//
// A gate belongs to a (scope, token stream). It reads its entry group: the first adapted slots of the scope
// that share one input. A decoder's sequence gates must not see the decoder's own tokens; they read the
// memory at their block's cross-attention k, v, or the pooled memory itself where no expert adapts those.

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <mole/nn/mole_linear.hpp>
#include <mole/nn/slots.hpp>

namespace mole {

/// The state of one forward pass: the masks of its streams and the gates computed so far.
template <class T, class B>
struct MolePass {
  Tensor<T, B> encoder_mask;                                  ///< [S, L] of 0 and 1, or undefined: no padding
  Tensor<T, B> decoder_mask;                                  ///< [S, Lt], or undefined
  std::vector<std::optional<GateValue<T, B>>> gates;          ///< by gate number
  std::map<std::size_t, std::vector<Tensor<T, B>>> readings;  ///< h of each slot of a group that was read
};

/// One gate of a model with its place.
template <class T, class B>
struct PlacedGate {
  std::string
      name;  ///< scope, with @memory where a decoder's scope reads the encoder's tokens by token gates
  Stream stream = Stream::encoder;  ///< whose tokens a token gate has a row for
  std::size_t source = 0;           ///< the group whose input it reads
  std::vector<std::size_t> reads;   ///< the adapted slots it reads; empty: the input itself
  Gate<T, B> gate;
};

/// What a pass decided at one gate, for losses and pictures.
template <class T, class B>
struct GateRecord {
  std::string name;
  GateValue<T, B> value;
  Tensor<T, B> row_mask;       ///< [S, L] for a token gate with padding, else undefined
  std::vector<Index> experts;  ///< the model's expert of each column
};

/// The experts and gates of a model.
template <class T, class B>
class Mixer {
 public:
  /// Plans gates for the slots of `table` (weights are read for their extents alone) and loads the experts.
  /// Throws FormatError for an adapter of another base, ArgumentError for an empty list, flatten pooling
  /// without a length, or top_k above the number of experts.
  Mixer(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets, GateOptions options)
      : options_(options), stacks_(table.slots.size()), gate_of_(table.slots.size()) {
    const Index N = static_cast<Index>(sets.size());
    MOLE_CHECK_ARG(N > 0, "attach: the list of experts is empty; give at least one adapter");
    MOLE_CHECK_ARG(options.top_k >= 0 && options.top_k <= N, "attach: top-k", options.top_k, "is not in [0,",
                   N, "]");
    MOLE_CHECK_ARG(options.pooling != Pooling::flatten || options.length > 0,
                   "attach: flatten pooling needs the number of tokens (GateOptions::length)");
    for (const auto& set : sets) {
      table.check_layers(set);
      MOLE_CHECK_ARG(std::find(names_.begin(), names_.end(), set.name) == names_.end(),
                     "attach: two experts are named", set.name);
      names_.push_back(set.name);
      digests_.push_back(set.digest);
    }
    plan(table, adapters_by_slot(table, sets));
    load(table, sets);
  }

  const GateOptions& options() const { return options_; }
  Index n_experts() const { return static_cast<Index>(names_.size()); }
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<std::string>& digests() const { return digests_; }
  const std::vector<PlacedGate<T, B>>& gates() const { return gates_; }
  /// The experts of a slot; undefined tensors where none adapts it.
  const ExpertStack<T, B>& experts_at(std::size_t slot) const { return stacks_[slot]; }

  /// F and log_tau of every gate, in the order of gates().
  std::vector<Tensor<T, B>> parameters() const {
    std::vector<Tensor<T, B>> list;
    for (const auto& placed : gates_) {
      list.push_back(placed.gate.weight);
      list.push_back(placed.gate.log_tau);
    }
    return list;
  }

  /// The second inference mode: experts set to false get no weight, the rest are renormalised. The gates
  /// still read all experts.    Throws ArgumentError for a list of another length or without a single true.
  void set_mask(const std::vector<bool>& keep) {
    MOLE_CHECK_ARG(keep.size() == names_.size(), "set_mask: expected", names_.size(), "entries, got",
                   keep.size());
    MOLE_CHECK_ARG(std::find(keep.begin(), keep.end(), true) != keep.end(),
                   "set_mask: all experts are masked; leave at least one");
    keep_.clear();
    if (std::find(keep.begin(), keep.end(), false) == keep.end()) return;
    for (const auto& placed : gates_) {
      std::vector<T> row;
      for (const Index expert : placed.gate.experts)
        row.push_back(keep[static_cast<std::size_t>(expert)] ? T(1) : T(0));
      keep_.push_back(Tensor<T, B>::from({static_cast<Index>(row.size())}, row));
    }
  }

  /// Reads a group's input x [S, L, d_in]: the experts' h, and every gate that has its source here. A decoder
  /// calls it for a block's cross-attention k, v before the block starts. A group already read is left alone.
  void read(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
            MolePass<T, B>& pass) const {
    pass.gates.resize(gates_.size());
    if (pass.readings.count(group)) return;
    auto& h = pass.readings[group];
    const auto& slots = table.groups[group].slots;
    for (const std::size_t slot : slots)
      h.push_back(stacks_[slot].A.defined() ? linear(x, stacks_[slot].A) : Tensor<T, B>());
    for (std::size_t i = 0; i < gates_.size(); ++i) {
      const auto& placed = gates_[i];
      if (placed.source != group || pass.gates[i]) continue;
      std::vector<Tensor<T, B>> inputs;
      for (std::size_t k = 0; k < slots.size(); ++k)
        if (std::find(placed.reads.begin(), placed.reads.end(), slots[k]) != placed.reads.end())
          append_columns(inputs, h[k], stacks_[slots[k]], placed.gate.experts);
      if (inputs.empty()) inputs.push_back(x);
      const auto& mask =
          table.groups[group].stream == Stream::decoder ? pass.decoder_mask : pass.encoder_mask;
      for (auto& input : inputs) input = pool_tokens(input, mask, options_.pooling, options_.length);
      const auto v = inputs.size() == 1 ? inputs.front() : concat(inputs, -1);
      pass.gates[i] = gate_weights(placed.gate, v, keep_.empty() ? Tensor<T, B>() : keep_[i], options_.top_k);
    }
  }

  /// The outputs of a group's slots for their input x [S, L, d_in], in the group's order.
  /// Throws ArgumentError if a slot's gate is not known yet.
  std::vector<Tensor<T, B>> outputs(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                                    MolePass<T, B>& pass) const {
    read(table, group, x, pass);
    const auto h = std::move(pass.readings[group]);
    pass.readings.erase(group);
    std::vector<Tensor<T, B>> result;
    const auto& slots = table.groups[group].slots;
    for (std::size_t k = 0; k < slots.size(); ++k) {
      const auto& stack = stacks_[slots[k]];
      if (!stack.A.defined()) {
        result.push_back(table.apply(slots[k], x));
        continue;
      }
      const auto& slot = table.slots[slots[k]];
      const auto& gate = pass.gates[gate_of_[slots[k]]];
      MOLE_CHECK_ARG(gate.has_value(), "mixer: the gate of", slot.name, "has not been read yet in this pass");
      result.push_back(
          mixture(x, slot.effective_weight(), slot.bias, h[k], gate->weights, stack.Q, stack.column));
    }
    return result;
  }

  /// Forgets the token gates of the decoder's stream: each decoding step has new ones.
  void next_step(MolePass<T, B>& pass) const {
    pass.readings.clear();
    if (options_.pooling != Pooling::token) return;
    for (std::size_t i = 0; i < gates_.size() && i < pass.gates.size(); ++i)
      if (gates_[i].stream == Stream::decoder) pass.gates[i].reset();
  }

  /// The gates a pass computed.
  std::vector<GateRecord<T, B>> records(const MolePass<T, B>& pass) const {
    std::vector<GateRecord<T, B>> list;
    for (std::size_t i = 0; i < pass.gates.size(); ++i) {
      if (!pass.gates[i]) continue;
      Tensor<T, B> mask;
      if (options_.pooling == Pooling::token)
        mask = gates_[i].stream == Stream::decoder ? pass.decoder_mask : pass.encoder_mask;
      list.push_back({gates_[i].name, *pass.gates[i], mask, gates_[i].gate.experts});
    }
    return list;
  }

 private:
  using Adapters = std::vector<std::vector<Index>>;  // the experts of each slot

  static Adapters adapters_by_slot(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets) {
    Adapters adapters(table.slots.size());
    for (std::size_t i = 0; i < sets.size(); ++i)
      for (const auto& name : sets[i].slots) adapters[table.find(name)].push_back(static_cast<Index>(i));
    return adapters;
  }

  /// The gate's name for a slot of a stream. Sequence gates do not depend on the stream.
  std::string gate_name(const std::string& slot, Stream stream) const {
    const auto scope = scope_of(slot, options_.scope);
    if (options_.pooling != Pooling::token) return scope;
    // One gate covers a network's encoder tokens, whether the encoder or cross-attention reads them.
    const bool memory =
        stream == Stream::memory || (options_.scope == Scope::network && stream == Stream::encoder);
    return memory ? scope + "@memory" : scope;
  }

  /// The group that reads the memory in the block of `slot`.
  static std::size_t memory_group(const SlotTable<T, B>& table, const std::string& slot) {
    const auto block = scope_of(slot, Scope::block);
    for (std::size_t g = 0; g < table.groups.size(); ++g)
      if (table.groups[g].stream == Stream::memory &&
          scope_of(table.slots[table.groups[g].slots.front()].name, Scope::block) == block)
        return g;
    throw ArgumentError("attach: sequence gates of " + block +
                        " have no context to read: the block has no cross-attention; use token pooling");
  }

  void plan(const SlotTable<T, B>& table, const Adapters& adapters) {
    std::map<std::string, std::size_t> by_name;
    std::vector<std::set<Index>> held;
    for (std::size_t g = 0; g < table.groups.size(); ++g) {
      const auto& group = table.groups[g];
      for (const std::size_t slot : group.slots) {
        if (adapters[slot].empty()) continue;
        const auto name = gate_name(table.slots[slot].name, group.stream);
        const auto [found, is_new] = by_name.emplace(name, gates_.size());
        if (is_new) {
          const bool from_memory = options_.pooling != Pooling::token && group.stream != Stream::encoder;
          const std::size_t source = from_memory ? memory_group(table, table.slots[slot].name) : g;
          gates_.push_back({name, group.stream, source, {}, {}});
          held.emplace_back();
        }
        gate_of_[slot] = found->second;
        held[found->second].insert(adapters[slot].begin(), adapters[slot].end());
      }
    }
    for (std::size_t i = 0; i < gates_.size(); ++i) {
      auto& placed = gates_[i];
      placed.gate.experts.assign(held[i].begin(), held[i].end());
      if (options_.input == GateInput::hidden) continue;
      // A decoder's sequence gate reads its block's k, v whether or not they are in its own scope.
      const bool foreign =
          options_.pooling != Pooling::token && table.groups[placed.source].stream == Stream::memory;
      for (const std::size_t slot : table.groups[placed.source].slots) {
        const bool any = std::any_of(adapters[slot].begin(), adapters[slot].end(),
                                     [&](Index expert) { return held[i].count(expert) > 0; });
        if (any && (foreign || gate_of_[slot] == i)) placed.reads.push_back(slot);
      }
    }
  }

  void load(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets) {
    std::vector<std::vector<std::pair<Index, LoraFactors>>> parts(table.slots.size());
    for (std::size_t i = 0; i < sets.size(); ++i)
      for (const auto& name : sets[i].slots)
        parts[table.find(name)].emplace_back(static_cast<Index>(i), table.fitting_factors(sets[i], name));
    for (std::size_t slot = 0; slot < parts.size(); ++slot) {
      if (parts[slot].empty()) continue;
      stacks_[slot] =
          stack_experts<T, B>(parts[slot], gates_[gate_of_[slot]].gate.experts, table.slots[slot].name);
      parts[slot] = {};
    }
    for (auto& placed : gates_) {
      Index features = 0;
      for (const std::size_t slot : placed.reads) {
        const auto& stack = stacks_[slot];
        for (std::size_t k = 0; k < stack.experts.size(); ++k)
          if (holds(placed.gate.experts, stack.experts[k]))
            features += stack.ends[k] - (k ? stack.ends[k - 1] : 0);
      }
      if (placed.reads.empty())
        features = table.slots[table.groups[placed.source].slots.front()].weight.size(1);
      if (options_.pooling == Pooling::flatten) features *= options_.length;
      placed.gate = make_gate<T, B>(features, placed.gate.experts, options_.temperature);
    }
  }

  static bool holds(const std::vector<Index>& experts, Index expert) {
    return std::binary_search(experts.begin(), experts.end(), expert);
  }

  /// The columns of h that belong to the gate's experts, in runs as long as possible.
  static void append_columns(std::vector<Tensor<T, B>>& inputs, const Tensor<T, B>& h,
                             const ExpertStack<T, B>& stack, const std::vector<Index>& experts) {
    for (std::size_t first = 0; first < stack.experts.size();) {
      std::size_t last = first;
      while (last < stack.experts.size() && holds(experts, stack.experts[last])) ++last;
      if (last == first) {
        ++first;
        continue;
      }
      const Index begin = first ? stack.ends[first - 1] : 0, end = stack.ends[last - 1];
      inputs.push_back(begin == 0 && end == stack.rank() ? h : slice(h, 2, begin, end));
      first = last;
    }
  }

  GateOptions options_;
  std::vector<std::string> names_, digests_;
  std::vector<ExpertStack<T, B>> stacks_;
  std::vector<std::size_t> gate_of_;
  std::vector<PlacedGate<T, B>> gates_;
  std::vector<Tensor<T, B>> keep_;
};

/// A model's linear layers with what is attached to them: the one thing its blocks call.
template <class T, class B>
struct AdaptedLayers {
  SlotTable<T, B> table;
  std::optional<Mixer<T, B>> mixer;

  /// The outputs of a group's slots for their shared input x [S, L, d_in], in the group's order.
  std::vector<Tensor<T, B>> operator()(std::size_t group, const Tensor<T, B>& x, MolePass<T, B>& pass) const {
    if (mixer) return mixer->outputs(table, group, x, pass);
    std::vector<Tensor<T, B>> result;
    for (const std::size_t slot : table.groups[group].slots) result.push_back(table.apply(slot, x));
    return result;
  }
};

}  // namespace mole
