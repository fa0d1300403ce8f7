#pragma once
// The second inference mode: some experts are masked, and the rest share their weight.

#include <algorithm>
#include <cstddef>
#include <vector>

#include <mole/experts/plan.hpp>

namespace mole {

/// Which experts of a model may be used, and what they weigh where no gate stands.
template <class T, class B>
struct ExpertMask {
  std::vector<Tensor<T, B>> keep;  ///< by gate, [N] of 0 and 1; empty: all experts may be used
  Tensor<T, B> outside;            ///< [N]: the weights at slots outside every scope

  /// That of a gate; undefined where all its experts may be used.
  Tensor<T, B> of(std::size_t gate) const { return keep.empty() ? Tensor<T, B>() : keep[gate]; }
};

namespace detail {

/// What each of `kept` experts that may be used weighs where no gate stands.
inline double outside_weight(Index kept, OutsideWeight how) {
  return how == OutsideWeight::mean ? 1 / static_cast<double>(kept) : how == OutsideWeight::off ? 0 : 1;
}

}  // namespace detail

/// All experts may be used.
template <class T, class B>
ExpertMask<T, B> no_mask(Index n_experts, OutsideWeight how) {
  return {{}, Tensor<T, B>::full({n_experts}, static_cast<T>(detail::outside_weight(n_experts, how)))};
}

/// Experts set to false get no weight. At slots outside every scope the rest weigh what `how` says.
/// Throws ArgumentError unless `keep` has an entry for each of n_experts, one of them true.
template <class T, class B>
ExpertMask<T, B> make_mask(const std::vector<bool>& keep, Index n_experts,
                           const std::vector<PlacedGate<T, B>>& gates, OutsideWeight how) {
  MOLE_CHECK_ARG(static_cast<Index>(keep.size()) == n_experts, "set_mask: expected", n_experts,
                 "entries, got", keep.size());
  const auto kept = static_cast<Index>(std::count(keep.begin(), keep.end(), true));
  MOLE_CHECK_ARG(kept > 0, "set_mask: all experts are masked; leave at least one");
  if (kept == n_experts) return no_mask<T, B>(n_experts, how);
  ExpertMask<T, B> mask;
  std::vector<T> weights;
  const double shared = detail::outside_weight(kept, how);
  for (const bool one : keep) weights.push_back(static_cast<T>(one ? shared : 0));
  mask.outside = Tensor<T, B>::from({n_experts}, weights);
  for (const auto& placed : gates) {
    std::vector<T> row;
    for (const Index expert : placed.gate.experts)
      row.push_back(keep[static_cast<std::size_t>(expert)] ? T(1) : T(0));
    mask.keep.push_back(Tensor<T, B>::from({static_cast<Index>(row.size())}, row));
  }
  return mask;
}

}  // namespace mole
