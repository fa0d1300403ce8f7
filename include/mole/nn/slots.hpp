#pragma once
// A model's linear layers as slots. A slot is frozen, or trains one LoRA, or mixes N experts; slots that read
// the same input form a group, and the groups in execution order are all a gate planner needs to know.

#include <cstddef>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mole/nn/lora.hpp>
#include <mole/nn/scope.hpp>

namespace mole {

/// Whose tokens a group reads. `memory` is the encoder's output read by a decoder block's cross-attention.
enum class Stream { encoder, decoder, memory };

/// A linear layer under its checkpoint's name.
template <class T, class B>
struct Slot {
  std::string name;       ///< such as encoder.block.0.layer.0.SelfAttention.q
  Tensor<T, B> weight;    ///< W [d_out, d_in]
  Tensor<T, B> bias;      ///< c [d_out] or undefined
  Tensor<T, B> merged;    ///< W with adapters merged in, used instead of it when defined
  LoraExpert<T, B> lora;  ///< the LoRA in training, if defined

  const Tensor<T, B>& effective_weight() const { return merged.defined() ? merged : weight; }
};

/// Slots that share one input.
struct SlotGroup {
  std::vector<std::size_t> slots;
  Stream stream = Stream::encoder;
};

/// The name of the scope a slot belongs to: the slot itself; its name up to `layer.<n>` (without one, its
/// parent); up to `block.<n>`, `layers.<n>` or `h.<n>`; or "network".
inline std::string scope_of(const std::string& slot, Scope scope) {
  if (scope == Scope::matrix) return slot;
  if (scope == Scope::network) return "network";
  std::vector<std::string> parts;
  std::istringstream stream(slot);
  for (std::string part; std::getline(stream, part, '.');) parts.push_back(part);
  auto is_number = [](const std::string& s) {
    return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos;
  };
  auto up_to = [&](auto named) {
    std::string name;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      name += (i ? "." : "") + parts[i];
      if (i > 0 && named(parts[i - 1]) && is_number(parts[i])) return name;
    }
    return std::string();
  };
  if (scope == Scope::layer) {
    if (auto name = up_to([](const std::string& p) { return p == "layer"; }); !name.empty()) return name;
    const auto dot = slot.rfind('.');
    return dot == std::string::npos ? slot : slot.substr(0, dot);
  }
  auto name = up_to([](const std::string& p) { return p == "block" || p == "layers" || p == "h"; });
  return name.empty() ? slot : name;
}

/// The slots of a model with their groups in execution order.
template <class T, class B>
struct SlotTable {
  std::vector<Slot<T, B>> slots;
  std::vector<SlotGroup> groups;

  /// Adds a group of slots that share one input and returns its number; weights are filled in later.
  std::size_t add_group(Stream stream, const std::vector<std::string>& names) {
    SlotGroup group{{}, stream};
    for (const auto& name : names) {
      group.slots.push_back(slots.size());
      index_[name] = slots.size();
      slots.push_back({name, {}, {}, {}, {}});
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

  /// y = E applied to one slot: its weight, merged or not, plus its LoRA in training.  x [.., d_in]
  Tensor<T, B> apply(std::size_t slot, const Tensor<T, B>& x) const {
    const auto& s = slots[slot];
    const auto y = linear(x, s.effective_weight(), s.bias);
    return s.lora.defined() ? add(y, lora_output(x, s.lora)) : y;
  }

  /// Gives each slot a fresh trainable LoRA. Scale alpha / rank.    Throws ArgumentError for a rank below 1.
  void add_lora(Index rank, double alpha, Generator& generator) {
    for (auto& slot : slots)
      slot.lora = make_lora<T, B>(rank, slot.weight.size(1), slot.weight.size(0),
                                  alpha / static_cast<double>(rank), generator.next());
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
    const auto& weight = slots[find(name)].weight;
    MOLE_CHECK_FORMAT(weight.shape() == found, "adapter", set.name, "expects", name, "to be", found,
                      "but this model's is", weight.shape(), "; it was trained for another base");
    return factors;
  }

 private:
  std::unordered_map<std::string, std::size_t> index_;
};

}  // namespace mole
