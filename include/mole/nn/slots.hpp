#pragma once
// A model's linear layers as slots. A slot is frozen, or trains one LoRA, or mixes N experts. Slots that read
// the same input form a group. The groups, in execution order, are all that the planner of gates needs to know.

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mole/nn/frozen_weight.hpp>
#include <mole/nn/linear.hpp>
#include <mole/nn/lora.hpp>
#include <mole/nn/scope.hpp>
#include <mole/ops/conv.hpp>

namespace mole {

/// Which tokens a sequence gate may pool over to decide how a group mixes. They must be known before the group
/// runs, and must not show a causal model its future.
///   own      the real tokens of the group's own input
///   all      every token of it, padding included
///   prompt   those of its own tokens that belong to the prompt
///   memory   the input of the block's memory group, such as the encoder's output in a decoder block
enum class Context { own, all, prompt, memory };

/// The kernel of a slot that is a convolution, and how it moves. Its weight W [d_out, C, height, width] is
/// the matrix of a linear map of patches, d_in = C height width; factors A of an adapter are [r, C, height,
/// width].
struct SlotKernel {
  Index height = 1, width = 1;
  ConvOptions options = {};

  Index taps() const { return height * width; }
  /// A map of each pixel by itself, which tokens take as well as images.
  bool pointwise() const { return taps() == 1 && options.stride == 1 && options.padding.none(); }
};

/// What a model says of a slot.
struct SlotShape {
  std::string name;  ///< its checkpoint's name, such as encoder.block.0.layer.0.SelfAttention.q
  Index d_out = 0, d_in = 0;
  double deviation = 0;                   ///< standard deviation of W where the model initialises itself
  std::optional<SlotKernel> kernel = {};  ///< of a convolution
  bool bias = false;                      ///< whether the layer has one
};

/// What a model says of a group: the scopes around its slots, and the tokens it reads.
struct GroupPlace {
  std::string layer = {}, block = {};  ///< names of the scopes; empty: the slots are outside any such scope
  std::size_t stream = 0;              ///< the token stream of the group's input, counted by the model
  std::size_t home = 0;  ///< the stream that the block transforms; another's token gates are apart
  Context context = Context::own;
  /// The slots belong to no scope but each to its own matrix: where gates stand at larger scopes, their
  /// experts have fixed weights.
  bool outside = false;
};

/// A linear layer under its checkpoint's name.
template <class T, class B>
struct Slot {
  std::string name;
  Shape shape;                     ///< [d_out, d_in], known before the weight is
  std::size_t group = 0;           ///< the group it belongs to
  double deviation = 0;            ///< see SlotShape
  Tensor<T, B> weight;             ///< W as stored_shape(); undefined where it is `stored` in another format
  FrozenWeight<T, B> stored = {};  ///< W in another format than dense, if defined
  Tensor<T, B> bias;               ///< c [d_out] or undefined
  Tensor<T, B> merged;             ///< W with adapters merged in, used instead of it when defined
  LoraExpert<T, B> lora;           ///< the LoRA in training, if defined
  std::optional<SlotKernel> kernel = {};  ///< of a convolution
  bool has_bias = false;                  ///< whether its checkpoint holds one
  /// conv2d, where there is a kernel: a model without convolutions compiles none.
  Tensor<T, B> (*convolve)(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                           const ConvOptions& options) = nullptr;

  /// The shape of its weight in a checkpoint: [d_out, d_in], or [d_out, C, kh, kw] of a convolution.
  Shape stored_shape() const { return kernel ? kernel_shape(shape[0]) : shape; }
  /// The width of the last axis of its input.
  Index channels() const { return kernel ? shape[1] / kernel->taps() : shape[1]; }
  /// Whether it takes images alone, and no tokens.
  bool is_spatial() const { return kernel && !kernel->pointwise(); }
  /// y = x M^T + c for a matrix M [rows, d_in] in place of W: the slot's own way to read x.
  /// x [.., channels], or [S, H, W, channels] of a spatial slot; y [.., rows]
  Tensor<T, B> times(const Tensor<T, B>& x, const Tensor<T, B>& M, const Tensor<T, B>& c = {}) const {
    if (is_spatial()) return convolve(x, reshape(M, kernel_shape(M.size(0))), c, kernel->options);
    return linear(x, M.rank() == 2 ? M : reshape(M, {M.size(0), shape[1]}), c);
  }

  /// W with what was merged into it, as a dense tensor; undefined where it is stored in another format.
  const Tensor<T, B>& effective_weight() const { return merged.defined() ? merged : weight; }
  /// The same as layers multiply with it.
  FrozenWeight<T, B> product() const {
    if (!merged.defined() && stored.defined()) return stored;
    const auto& W = effective_weight();
    return W.defined() && W.rank() != 2 ? Tensor<T, B>(shape, W.buffer()) : W;
  }

 private:
  Shape kernel_shape(Index rows) const { return {rows, channels(), kernel->height, kernel->width}; }
};

/// Slots that share one input.
struct SlotGroup {
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  std::vector<std::size_t> slots;
  GroupPlace place;
  std::size_t memory = none;  ///< with Context::memory, the group whose input is the memory
};

/// Whether `target` names a slot: its whole name, or the end of it after a dot, such as "q_proj".
inline bool is_named(const std::string& slot, const std::string& target) {
  return slot == target || slot.ends_with("." + target);
}

/// The slots of a model with their groups in execution order.
template <class T, class B>
struct SlotTable {
  std::vector<Slot<T, B>> slots;
  std::vector<SlotGroup> groups;
  std::vector<std::string> streams{"tokens"};  ///< names of the model's token streams
  std::size_t home = 0;                        ///< the stream at home in the whole network
  std::size_t hidden_stream = 0;   ///< the stream of the last hidden state, which X-LoRA's classifier reads
  Index hidden = 0;                ///< the width of that state; 0: the model has none
  bool resolution_varies = false;  ///< a stream has more tokens at one block than at another, as in a UNet

  /// Adds a group of slots that share one input and returns its number; weights are filled in later.
  /// Throws ArgumentError for a name that stands already, or a stream that the model does not have.
  std::size_t add_group(GroupPlace place, const std::vector<SlotShape>& shapes) {
    const std::size_t number = add_slots(std::move(place), shapes);
    for (const std::size_t slot : groups[number].slots)
      if (slots[slot].kernel) slots[slot].convolve = &conv2d<T, B>;
    return number;
  }
  /// The same for slots that are no convolutions.    Throws also ArgumentError for one that is.
  std::size_t add_linear_group(GroupPlace place, std::span<const SlotShape> shapes) {
    for (const auto& shape : shapes)
      MOLE_CHECK_ARG(!shape.kernel, "add_linear_group:", shape.name, "is a convolution");
    return add_slots(std::move(place), shapes);
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

  /// y = E applied to one slot: its weight, merged or not, plus its LoRA in training.
  /// x [.., d_in], or [S, H, W, C] of a spatial slot
  Tensor<T, B> apply(std::size_t slot, const Tensor<T, B>& x) const {
    const auto& s = slots[slot];
    // A dense weight may train.
    const auto& dense = s.effective_weight();
    const auto y = dense.defined() ? s.times(x, dense, s.bias) : frozen_linear(x, s.product(), s.bias);
    if (!s.lora.defined()) return y;
    return add(y, linear(scale(s.times(x, s.lora.down), static_cast<Compute<T>>(s.lora.scale)), s.lora.up));
  }

  /// The names of the slots that lie in a block. Those outside, such as a UNet's convolutions, have no gate of a
  /// block to weigh them.
  std::vector<std::string> names_in_blocks() const {
    std::vector<std::string> names;
    for (const auto& slot : slots)
      if (!groups[slot.group].place.block.empty()) names.push_back(slot.name);
    return names;
  }

  /// Gives slots a fresh trainable LoRA, scale alpha / rank: those that is_named() finds by a target; without targets
  /// all. The others have none afterwards.
  /// Throws ArgumentError for a rank below 1, for one above what a layer's matrix can have, and for a target that
  /// names no slot; then nothing has changed.
  void add_lora(Index rank, double alpha, Generator& generator,
                const std::vector<std::string>& targets = {}) {
    for (const auto& target : targets)
      MOLE_CHECK_ARG(std::any_of(slots.begin(), slots.end(),
                                 [&](const auto& slot) { return is_named(slot.name, target); }),
                     "add_lora: this model has no linear layer", target);
    const auto wanted = [&](const auto& slot) {
      return targets.empty() || std::any_of(targets.begin(), targets.end(),
                                            [&](const auto& target) { return is_named(slot.name, target); });
    };
    check_rank(rank, wanted);
    for (auto& slot : slots) {
      // A slot's numbers do not depend on which others are targets.
      const auto stream = generator.next();
      slot.lora = wanted(slot) ? make_lora<T, B>(rank, slot.shape[1], slot.shape[0],
                                                 alpha / static_cast<double>(rank), stream)
                               : LoraExpert<T, B>();
    }
  }

  /// Continues the training of an adapter: its slots have its factors as their LoRA, the others have none.
  /// Throws FormatError for an adapter of another base, NumericError for one whose factors are not finite; then nothing
  /// has changed.
  void set_lora(const LoraSet& set) {
    check_layers(set);
    std::vector<LoraExpert<T, B>> loras(slots.size());
    for (const auto& name : set.slots) {
      const auto f = fitting_factors(set, name);
      detail::check_finite_factors<T>(set.name, name, f);
      auto& lora = loras[find(name)];
      lora = {Tensor<T, B>::from({f.rank, f.d_in}, std::vector<T>(f.A.begin(), f.A.end())),
              Tensor<T, B>::from({f.d_out, f.rank}, std::vector<T>(f.B.begin(), f.B.end())), f.scale};
      lora.down.set_requires_grad();
      lora.up.set_requires_grad();
    }
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i].lora = std::move(loras[i]);
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

  /// Drops the LoRAs in training.
  void drop_loras() {
    for (auto& slot : slots) slot.lora = {};
  }
  /// Drops merged weights and LoRAs: every slot is frozen again.
  void reset() {
    drop_loras();
    for (auto& slot : slots) slot.merged = {};
  }

  /// Throws FormatError, naming adapter and layer, unless the model has each of the adapter's layers.
  void check_layers(const LoraSet& set) const {
    MOLE_CHECK_FORMAT(!set.slots.empty(), "adapter", set.name, "adapts nothing");
    for (const auto& name : set.slots)
      MOLE_CHECK_FORMAT(
          contains(name), "adapter", set.name, "adapts", name,
          "which this model does not have among the layers that can be adapted: it is the head,",
          "or the adapter was trained for another base");
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
  std::size_t add_slots(GroupPlace place, std::span<const SlotShape> shapes) {
    MOLE_CHECK_ARG(place.stream < streams.size() && place.home < streams.size(), "add_group: stream",
                   std::max(place.stream, place.home), "of", streams.size());
    SlotGroup group{{}, std::move(place)};
    for (const auto& shape : shapes) {
      MOLE_CHECK_ARG(index_.emplace(shape.name, slots.size()).second, "add_group: there is already a slot",
                     shape.name);
      group.slots.push_back(slots.size());
      MOLE_CHECK_ARG(!shape.kernel || (shape.kernel->taps() > 0 && shape.d_in % shape.kernel->taps() == 0),
                     "add_group: the kernel of", shape.name, "does not fit", shape.d_in, "inputs");
      Slot<T, B> slot;
      slot.name = shape.name;
      slot.shape = Shape{shape.d_out, shape.d_in};
      slot.group = groups.size();
      slot.deviation = shape.deviation;
      slot.kernel = shape.kernel;
      slot.has_bias = shape.bias;
      slots.push_back(std::move(slot));
    }
    groups.push_back(std::move(group));
    return groups.size() - 1;
  }

  // The product of two factors has the rank of the layer's smaller side at most: what is beyond trains for nothing.
  template <class F>
  void check_rank(Index rank, const F& wanted) const {
    MOLE_CHECK_ARG(rank >= 1, "add_lora: expected a rank of at least 1, got", rank);
    const Slot<T, B>* lowest = nullptr;
    const auto most = [](const Slot<T, B>& slot) { return std::min(slot.shape[0], slot.shape[1]); };
    for (const auto& slot : slots)
      if (wanted(slot) && (!lowest || most(slot) < most(*lowest))) lowest = &slot;
    MOLE_CHECK_ARG(!lowest || rank <= most(*lowest), "add_lora: a LoRA of rank", rank, "is more than layer",
                   lowest->name, "of", lowest->shape, "can use; take a rank of at most", most(*lowest),
                   "or leave such layers out of the targets");
  }

  std::map<std::string, std::size_t> index_;
};

/// [kh, kw] of the slots that are convolutions, by name, for files that store their factors so.
template <class T, class B>
std::map<std::string, Shape> kernels_of(const SlotTable<T, B>& table) {
  std::map<std::string, Shape> kernels;
  for (const auto& slot : table.slots)
    if (slot.kernel) kernels[slot.name] = Shape{slot.kernel->height, slot.kernel->width};
  return kernels;
}

}  // namespace mole
