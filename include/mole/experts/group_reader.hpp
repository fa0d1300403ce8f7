#pragma once
// What the gates of a model read of the input of one group of slots.

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/ops/spatial_mixture.hpp>
#include <mole/experts/pass.hpp>
#include <mole/experts/plan.hpp>

namespace mole::detail {

/// One group of slots in a pass, for its gates.
template <class T, class B>
struct GroupReader {
  const SlotTable<T, B>& table;
  const ExpertBank<T, B>& bank;
  const GatePlacement& placement;
  std::size_t group;
  MolePass<T, B>& pass;

  /// What a gate with its source here reads of the group's input x [S, L, d_in]: the h of the slots that it reads, side
  /// by side, or x itself where it reads none; pooled but for gates of tokens.
  Tensor<T, B> input(const PlacedGate<T, B>& placed, const Tensor<T, B>& x) const {
    const auto& slots = table.groups[group].slots;
    std::vector<Tensor<T, B>> inputs;
    for (std::size_t k = 0; k < slots.size(); ++k)
      if (std::find(placed.reads.begin(), placed.reads.end(), slots[k]) != placed.reads.end())
        append_columns(inputs, readings(x)[k], bank.stacks[slots[k]], placed.gate.experts);
    if (inputs.empty()) inputs.push_back(readable(as_tokens(x)));
    if (placement.pooling != Pooling::mean)
      for (auto& input : inputs) input = pool(input);
    return inputs.size() == 1 ? inputs.front() : concat(inputs, -1);
  }

  /// x pooled as the gates' policies say.
  Tensor<T, B> pool(const Tensor<T, B>& x) const {
    return pool_tokens(x, counted(), placement.pooling, placement.length);
  }

  /// The mask of the tokens that gates of the group's context pool over, or undefined: all. Gates of tokens have rows
  /// for all that are real.
  Tensor<T, B> counted() const {
    const auto& place = table.groups[group].place;
    const auto mask = pass.mask(place.stream);
    if (placement.pooling == Pooling::token) return mask.real;
    if (place.context == Context::all) return {};
    return place.context == Context::prompt && mask.prompt.defined() ? mask.prompt : mask.real;
  }

 private:
  /// What the experts read for the gates. The mean of h is the h of the mean, at a fraction of the cost.
  Tensor<T, B> readable(const Tensor<T, B>& x) const {
    return placement.pooling == Pooling::mean ? pool(x) : x;
  }

  /// h of each of the group's slots, undefined where no expert adapts it; kept in the pass.
  const std::vector<Tensor<T, B>>& readings(const Tensor<T, B>& x) const {
    auto& read = pass.reading(group);
    if (!read.empty()) return read;
    const auto& slots = table.groups[group].slots;
    const bool spatial = table.slots[slots.front()].is_spatial();
    // The mean of a convolution is not that of its input's mean.
    const auto from = spatial ? x : readable(x);
    for (const std::size_t slot : slots) {
      const auto& A = bank.stacks[slot].A;
      read.push_back(!A.defined() ? Tensor<T, B>()
                     : spatial    ? readable(as_tokens(table.slots[slot].times(x, A)))
                                  : linear(from, A));
    }
    return read;
  }
};

}  // namespace mole::detail
