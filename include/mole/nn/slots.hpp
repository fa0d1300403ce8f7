#pragma once
// A model's linear layers as slots. A slot is frozen, or trains one LoRA, or mixes N experts. Slots that read
// the same input form a group. The groups, in execution order, are all that the planner of gates needs to know.

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <mole/nn/frozen_weight.hpp>
#include <mole/nn/linear.hpp>
#include <mole/nn/lora.hpp>
#include <mole/nn/scope.hpp>

namespace mole {

/// Which tokens a sequence gate may pool over to decide how a group mixes. They must be known before the group
/// runs, and must not show a causal model its future.
///   own      the real tokens of the group's own input
///   all      every token of it, padding included
///   prompt   those of its own tokens that belong to the prompt
///   memory   the input of the block's memory group, such as the encoder's output in a decoder block
enum class Context { own, all, prompt, memory };

/// What a model says of a slot.
struct SlotShape {
  std::string name;  ///< its checkpoint's name, such as encoder.block.0.layer.0.SelfAttention.q
  Index d_out = 0, d_in = 0;
  double deviation = 0;  ///< standard deviation of W where the model initialises itself
};

/// What a model says of a group: the scopes around its slots, and the tokens it reads.
struct GroupPlace {
  std::string layer = {}, block = {};  ///< names of the scopes; empty: the slots are outside any such scope
  std::size_t stream = 0;              ///< the token stream of the group's input, counted by the model
  std::size_t home = 0;  ///< the stream that the block transforms; another's token gates are apart
  Context context = Context::own;
};

/// A linear layer under its checkpoint's name.
template <class T, class B>
struct Slot {
  std::string name;
  Shape shape;                     ///< [d_out, d_in], known before the weight is
  std::size_t group = 0;           ///< the group it belongs to
  double deviation = 0;            ///< see SlotShape
  Tensor<T, B> weight;             ///< W [d_out, d_in]; undefined where it is `stored` in another format
  FrozenWeight<T, B> stored = {};  ///< W in another format than dense, if defined
  Tensor<T, B> bias;               ///< c [d_out] or undefined
  Tensor<T, B> merged;             ///< W with adapters merged in, used instead of it when defined
  LoraExpert<T, B> lora;           ///< the LoRA in training, if defined

  /// W with what was merged into it, as a dense tensor; undefined where it is stored in another format.
  const Tensor<T, B>& effective_weight() const { return merged.defined() ? merged : weight; }
  /// The same as layers multiply with it.
  FrozenWeight<T, B> product() const {
    return merged.defined() || !stored.defined() ? FrozenWeight<T, B>(effective_weight()) : stored;
  }
};

/// Slots that share one input.
struct SlotGroup {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  std::vector<std::size_t> slots;
  GroupPlace place;
  std::size_t memory = none;  ///< with Context::memory, the group whose input is the memory
};

/// The slots of a model with their groups in execution order.
template <class T, class B>
struct SlotTable {
  std::vector<Slot<T, B>> slots;
  std::vector<SlotGroup> groups;
  std::vector<std::string> streams{"tokens"};  ///< names of the model's token streams
  std::size_t home = 0;                        ///< the stream at home in the whole network
  std::size_t hidden_stream = 0;  ///< the stream of the last hidden state, which X-LoRA's classifier reads
  Index hidden = 0;               ///< the width of that state

  /// Adds a group of slots that share one input and returns its number; weights are filled in later.
  /// Throws ArgumentError for a name that stands already, or a stream that the model does not have.
  std::size_t add_group(GroupPlace place, const std::vector<SlotShape>& shapes) {
    MOLE_CHECK_ARG(place.stream < streams.size() && place.home < streams.size(), "add_group: stream",
                   std::max(place.stream, place.home), "of", streams.size());
    SlotGroup group{{}, std::move(place)};
    for (const auto& shape : shapes) {
      MOLE_CHECK_ARG(index_.emplace(shape.name, slots.size()).second, "add_group: there is already a slot",
                     shape.name);
      group.slots.push_back(slots.size());
      slots.push_back(
          {shape.name, Shape{shape.d_out, shape.d_in}, groups.size(), shape.deviation, {}, {}, {}, {}, {}});
    }
    groups.push_back(std::move(group));
    return groups.size() - 1;
  }

  bool contains(const std::string& name) const { return index_.count(name) > 0; }

  /// Throws ArgumentError for a name the model does not have.
  std::size_t find(const std::string& name) const {
    const auto found = index_.find(name);
    MOLE_CHECK_ARG(found != index_.end(), "this model has no linear layer named", name);
    return found->second;
  }

  /// The name of the scope a slot belongs to: the slot itself, its layer, its block, or "network".
  /// Throws ArgumentError for a slot outside any such scope.
  std::string scope_of(std::size_t slot, Scope scope) const {
    const auto& s = slots[slot];
    if (scope == Scope::matrix) return s.name;
    if (scope == Scope::network) return "network";
    const auto& place = groups[s.group].place;
    const auto& name = scope == Scope::layer ? place.layer : place.block;
    MOLE_CHECK_ARG(!name.empty(), "the slot", s.name, "belongs to no", to_string(scope),
                   "of this model; choose the scope matrix or network");
    return name;
  }

  /// The stream whose token gates carry the scope's plain name.
  std::size_t home_of(std::size_t group, Scope scope) const {
    return scope == Scope::network ? home : groups[group].place.home;
  }

  /// y = E applied to one slot: its weight, merged or not, plus its LoRA in training.  x [.., d_in]
  Tensor<T, B> apply(std::size_t slot, const Tensor<T, B>& x) const {
    const auto& s = slots[slot];
    // A dense weight may train.
    const auto& dense = s.effective_weight();
    const auto y = dense.defined() ? linear(x, dense, s.bias) : frozen_linear(x, s.product(), s.bias);
    return s.lora.defined() ? add(y, lora_output(x, s.lora)) : y;
  }

  /// Gives each slot a fresh trainable LoRA. Scale alpha / rank.    Throws ArgumentError for a rank below 1.
  void add_lora(Index rank, double alpha, Generator& generator) {
    for (auto& slot : slots)
      slot.lora = make_lora<T, B>(rank, slot.shape[1], slot.shape[0], alpha / static_cast<double>(rank),
                                  generator.next());
  }

  /// The trainable tensors of the LoRAs, down and up of each slot in order.
  std::vector<Tensor<T, B>> lora_parameters() const {
    std::vector<Tensor<T, B>> parameters;
    for (const auto& slot : slots) {
      if (!slot.lora.defined()) continue;
      parameters.push_back(slot.lora.down);
      parameters.push_back(slot.lora.up);
    }
    return parameters;
  }

  /// Drops merged weights and LoRAs: every slot is frozen again.
  void reset() {
    for (auto& slot : slots) {
      slot.merged = {};
      slot.lora = {};
    }
  }

  /// Throws FormatError, naming adapter and layer, unless the model has each of the adapter's layers.
  void check_layers(const LoraSet& set) const {
    MOLE_CHECK_FORMAT(!set.slots.empty(), "adapter", set.name, "adapts nothing");
    for (const auto& name : set.slots)
      MOLE_CHECK_FORMAT(contains(name), "adapter", set.name, "adapts", name,
                        "which this model does not have; it was trained for another base");
  }

  /// The adapter's factors for a layer. Throws FormatError, naming both shapes, unless they fit the weight.
  LoraFactors fitting_factors(const LoraSet& set, const std::string& name) const {
    auto factors = set.factors(name);
    const Shape found{factors.d_out, factors.d_in};
    const auto& shape = slots[find(name)].shape;
    MOLE_CHECK_FORMAT(shape == found, "adapter", set.name, "expects", name, "to be", found,
                      "but this model's is", shape, "; it was trained for another base");
    return factors;
  }

 private:
  std::map<std::string, std::size_t> index_;
};

}  // namespace mole
