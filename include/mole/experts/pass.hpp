#pragma once
// What one forward pass over a model with experts remembers: whose tokens are real, and what the gates decided.

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <mole/autodiff/offload.hpp>
#include <mole/experts/chosen_experts.hpp>
#include <mole/experts/gate.hpp>

namespace mole {

/// Which tokens of one stream count. Each mask is [S, L] of 0 and 1, or undefined: all of them.
template <class T, class B>
struct TokenMask {
  Tensor<T, B> real;    ///< 0 for padding
  Tensor<T, B> prompt;  ///< 1 for the prompt, for gates that read it (Context::prompt)
};

/// Is shown what layers read, as a pass goes through them: see MolePass::inputs.
template <class T, class B>
struct InputWatch {
  /// Of a group of the slot table, before its outputs are computed.
  virtual void see(std::size_t group, const Tensor<T, B>& x) = 0;

 protected:
  ~InputWatch() = default;
};

/// The state of one forward pass. A model fills in the masks from its batch.
template <class T, class B>
struct MolePass {
  std::vector<TokenMask<T, B>> masks;                 ///< by token stream
  std::vector<std::optional<GateValue<T, B>>> gates;  ///< by gate number
  std::vector<std::vector<Tensor<T, B>>> readings;    ///< see reading()
  std::map<std::size_t, ChosenExperts<T, B>> used;    ///< by gate, what top-k left to each sequence
  Tensor<T, B> keep;  ///< [N] of 0 and 1: in place of Mixer::set_mask, where every gate holds all experts
  /// [S, N]: what every expert weighs at each sequence, in every layer and in place of all gates, so that requests of
  /// several users share a batch: (0, 1, 0) is the second expert alone, in full. Undefined: the gates decide.
  Tensor<T, B> weights;
  /// Which gates weigh each sequence: 0, the model's own; a number of Mixer::gate_set(); or `fixed`, its row of
  /// `weights`. Empty: the same for all, `weights` if they are given and else the model's own gates.
  std::vector<Index> sets;
  static constexpr Index fixed = -1;
  bool bare = false;                    ///< leave all experts out
  bool all_experts = false;             ///< the gates are not limited by top-k
  GateMeasurement* measured = nullptr;  ///< all gates stay uniform, and what they read is counted here
  InputWatch<T, B>* inputs = nullptr;   ///< is shown the input of every group of layers
  /// Where the inputs of blocks wait that are run again (CausalModel::offload_blocks); made by the model where it is null.
  std::shared_ptr<Offload<T, B>> offload = nullptr;

  /// Whether all sequences have fixed weights, so that no gate is read.
  bool all_fixed() const { return weights.defined() && sets.empty(); }
  /// Whether some have.
  bool any_fixed() const { return all_fixed() || std::count(sets.begin(), sets.end(), fixed) > 0; }

  /// h of each slot of a group that was read; empty where it was not.
  std::vector<Tensor<T, B>>& reading(std::size_t group) {
    if (readings.size() <= group) readings.resize(group + 1);
    return readings[group];
  }

  /// The masks of a stream; without any where the model has not set them.
  TokenMask<T, B> mask(std::size_t stream) const {
    return stream < masks.size() ? masks[stream] : TokenMask<T, B>();
  }
  void set_mask(std::size_t stream, TokenMask<T, B> mask) {
    if (masks.size() <= stream) masks.resize(stream + 1);
    masks[stream] = std::move(mask);
  }
};

/// What a pass decided at one gate, for losses and pictures.
template <class T, class B>
struct GateRecord {
  std::string name;
  GateValue<T, B> value;
  Tensor<T, B> row_mask;       ///< [S, L] for a token gate with padding, else undefined
  std::vector<Index> experts;  ///< the model's expert of each column
  std::string stream;          ///< whose tokens the rows of a token gate are: as PlacedGate::tokens
};

}  // namespace mole
