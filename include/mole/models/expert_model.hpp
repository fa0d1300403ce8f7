#pragma once
// What every family of models has in common: linear layers that experts can be attached to.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/experts/adapted_layers.hpp>
#include <mole/experts/routers/registry.hpp>
#include <mole/loss/balance.hpp>
#include <mole/nn/packed_weight.hpp>

namespace mole {

/// A model over slots that can be frozen, train one LoRA each, or mix N experts. A family derives from it, adds
/// its slots to layers().table, and has a visit(f) that calls f(name, shape, tensor) for every parameter, and
/// standardise_gates(batches), which is measure_gates() with its own way to run a batch.
template <class T, class B>
class ExpertModel {
 public:
  using Scalar = T;
  using Device = B;

  AdaptedLayers<T, B>& layers() { return layers_; }
  const AdaptedLayers<T, B>& layers() const { return layers_; }

  /// Mixes these experts by MoLE from now on, with fresh gates; experts attached before and LoRAs in training are
  /// dropped. What merge() has put into the weights stays there, whether it came before or comes after: experts are
  /// mixed on top of the merged weights. Throws as Mixer's constructor does; then nothing is attached.
  void attach(const std::vector<LoraSet>& adapters, const GateOptions& options) {
    attach<GateOptions>(adapters, options, {});
  }
  /// The same with any router: attach(adapters, ArrowOptions{.top_k = 2}), or a RouterOptions of one. `check` sees
  /// what the router is about to make, and may throw.
  template <class O>
  void attach(const std::vector<LoraSet>& adapters, const O& router, const ShapeCheck& check = {}) {
    layers_.mixer.reset();
    layers_.table.drop_loras();
    layers_.mixer.emplace(layers_.table, adapters, router, check);
  }

  /// The same with experts that are not all in memory (open_experts), for gates of sequences with a top-k.
  template <class O = GateOptions>
  void attach(const PagedExperts<T>& experts, const O& router, const ShapeCheck& check = {}) {
    layers_.mixer.reset();
    layers_.table.drop_loras();
    layers_.mixer.emplace(layers_.table, experts, router, check);
  }

  /// Puts an adapter in the place of the expert of this name, between two passes and in the same memory. Its gates stay
  /// as they are.    Throws as Mixer::replace does; ArgumentError if nothing is attached, or nothing of this name.
  void replace_expert(const std::string& name, const LoraSet& adapter) {
    const auto& names = mixer().names();
    const auto found = std::find(names.begin(), names.end(), name);
    MOLE_CHECK_ARG(found != names.end(), "replace_expert: no expert is named", name);
    mixer().replace(layers_.table, static_cast<std::size_t>(found - names.begin()), adapter);
  }

  /// Every slot frozen and plain again: experts, what was merged, and LoRAs in training are dropped. To keep a merge
  /// for good, save the model (save_t5() writes the merged weights) and load it again.
  void detach() {
    layers_.mixer.reset();
    layers_.table.reset();
  }

  /// Has a linear layer multiply with packed rows in place of its parameter SLOT.weight, which becomes undefined; false
  /// where there is no such layer that takes tokens. Throws as PackedWeight() does.
  bool keep_packed(const std::string& parameter, const std::shared_ptr<const PackedRows>& rows) {
    constexpr std::string_view end = ".weight";
    if (!parameter.ends_with(end)) return false;
    const auto name = parameter.substr(0, parameter.size() - end.size());
    auto& table = layers_.table;
    if (!table.contains(name)) return false;
    auto& slot = table.slots[table.find(name)];
    if (slot.kernel) return false;
    slot.stored = packed_weight<T, B>(rows);
    slot.weight = {};
    return true;
  }

  /// Throws ArgumentError if nothing is attached.
  const Mixer<T, B>& mixer() const {
    MOLE_CHECK_ARG(layers_.mixer.has_value(), "no experts are attached; call attach() first");
    return *layers_.mixer;
  }
  Mixer<T, B>& mixer() { return const_cast<Mixer<T, B>&>(std::as_const(*this).mixer()); }

  /// The balance loss (eq. 14-15) of the gates that a pass computed. Throws ArgumentError if nothing is
  /// attached, or for a router whose weights are no shares of one.
  Tensor<T, B> balance(const MolePass<T, B>& pass) const {
    const auto& mixer = this->mixer();
    mixer.router().check_shares();
    std::vector<GateSample<T, B>> samples;
    for (const auto& record : mixer.records(pass))
      samples.push_back({record.value.dense, record.row_mask, record.experts});
    return balance_loss(samples, mixer.n_experts());
  }

 protected:
  /// Measures the scale of what the gates read: run(batch, pass) runs the model on a batch. Throws as
  /// Mixer::standardise does; ArgumentError if nothing is attached.
  template <class Batches, class Run>
  void measure_gates(const Batches& batches, Run run) {
    mixer().standardise(batches, run);
  }

  /// hidden(pass), the part of a family that ends in the last hidden state on `stream`, for S sequences. A
  /// router of two passes has it run twice: the first gives all gates of the second.
  template <class F>
  Tensor<T, B> in_passes(Index S, MolePass<T, B>& pass, F hidden) const {
    if (layers_.mixer && layers_.mixer->two_passes() && !pass.all_fixed()) {
      auto first = layers_.mixer->first_pass(S, pass);
      Tensor<T, B> z;
      {
        const NoGrad off;
        z = hidden(first);
      }
      layers_.mixer->classify(z, layers_.table.hidden_stream, pass);
    }
    return hidden(pass);
  }

  AdaptedLayers<T, B> layers_;
};

}  // namespace mole
