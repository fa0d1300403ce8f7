#pragma once
// Merging by pruning, with PEFT's semantics (peft.utils.merge_utils). For experts' tensors t_i and weights
// w_i:
//
//   magnitude   t_i keeps its k = floor(density n) largest |t|            sum_i w_i t_i
//   DARE        t_i keeps each element with chance density, / density     sum_i w_i t_i
//   TIES        m = sign elected over the pruned t_i, m = +1 for a draw   sum_i w_i t_i [sign t_i = m]
//                                                                          / max(1, number of i that agree)
//
// DARE: Yu et al., ICML 2024, arXiv 2311.03099. TIES: Yadav et al., NeurIPS 2023, arXiv 2306.01708.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/compose/svd.hpp>
#include <mole/core/random.hpp>

namespace mole {

/// How a tensor is pruned, and whether the sum elects signs.
struct PruningMethod {
  bool random = false;  ///< DARE's masks, else the largest magnitudes
  bool elect = false;   ///< TIES
};

/// Throws ArgumentError unless a density is given and in (0, 1].
inline void check_density(const std::string& method, const std::optional<double>& density) {
  MOLE_CHECK_ARG(density.has_value(), method + ": needs a density, the share of elements to keep, in (0, 1]");
  MOLE_CHECK_ARG(*density > 0 && *density <= 1, method + ": expected a density in (0, 1], got", *density);
}

/// Keeps the floor(density n) largest magnitudes of n numbers, the first of equals, and sets the others to 0.
/// A density of 1 keeps all.    Throws ArgumentError for a density outside (0, 1].
inline std::vector<double> keep_largest(std::vector<double> values, double density) {
  check_density("keep_largest", density);
  const auto keep = static_cast<std::size_t>(density * static_cast<double>(values.size()));
  if (keep >= values.size()) return values;
  if (keep == 0) return std::vector<double>(values.size());
  std::vector<double> sizes(values.size());
  std::transform(values.begin(), values.end(), sizes.begin(), [](double v) { return std::abs(v); });
  const auto last_kept = sizes.begin() + static_cast<std::ptrdiff_t>(keep) - 1;
  std::nth_element(sizes.begin(), last_kept, sizes.end(), std::greater<>());
  const double least = *last_kept;
  auto equals = keep - static_cast<std::size_t>(std::count_if(sizes.begin(), last_kept,
                                                              [&](double size) { return size > least; }));
  for (double& value : values) {
    const double size = std::abs(value);
    if (size > least) continue;
    if (size == least && equals > 0) {
      --equals;
      continue;
    }
    value = 0;
  }
  return values;
}

/// Keeps number i where keeps(i), divided by the density, and sets the others to 0.
/// Throws ArgumentError for a density outside (0, 1].
template <std::predicate<Index> Keeps>
std::vector<double> keep_random(std::vector<double> values, double density, const Keeps& keeps) {
  check_density("keep_random", density);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = keeps(static_cast<Index>(i)) ? values[i] / density : 0;
  return values;
}

/// Keeps number i where uniform(stream, i) < density, divided by the density, and sets the others to 0: the
/// expectation is the tensor itself. The mask depends on the stream alone. A density of 1 keeps all.
/// Throws ArgumentError for a density outside (0, 1].
inline std::vector<double> keep_random(std::vector<double> values, double density, RandomStream stream) {
  return keep_random(std::move(values), density, [&](Index i) { return uniform(stream, i) < density; });
}

/// The weighted sum of n equally large tensors; tensor(i) gives the i-th.
template <class TensorOf>
std::vector<double> weighted_sum(std::size_t n, const TensorOf& tensor, const std::vector<double>& weights) {
  std::vector<double> sum;
  for (std::size_t i = 0; i < n; ++i) {
    const std::vector<double> t = tensor(i);
    sum.resize(t.size());
    for (std::size_t j = 0; j < t.size(); ++j) sum[j] += weights[i] * t[j];
  }
  return sum;
}

/// TIES' second and third step for n equally large, already trimmed tensors: the sign of each element is
/// elected among the tensors without their weights, then those that agree are averaged with them. Zeros
/// neither vote nor count. tensor(i) gives the i-th and is called twice, so that one is held at a time.
template <class TensorOf>
std::vector<double> disjoint_mean(std::size_t n, const TensorOf& tensor, const std::vector<double>& weights,
                                  MajoritySign majority) {
  const auto sign = [](double v) { return static_cast<double>((v > 0) - (v < 0)); };
  std::vector<double> votes;
  for (std::size_t i = 0; i < n; ++i) {
    const std::vector<double> t = tensor(i);
    votes.resize(t.size());
    for (std::size_t j = 0; j < t.size(); ++j)
      votes[j] += majority == MajoritySign::total ? t[j] : sign(t[j]);
  }
  std::vector<double> sum(votes.size()), agreeing(votes.size());
  for (std::size_t i = 0; i < n; ++i) {
    const std::vector<double> t = tensor(i);
    for (std::size_t j = 0; j < t.size(); ++j) {
      if (sign(t[j]) != (votes[j] >= 0 ? 1 : -1)) continue;
      sum[j] += weights[i] * t[j];
      ++agreeing[j];
    }
  }
  for (std::size_t j = 0; j < sum.size(); ++j) sum[j] /= std::max(agreeing[j], 1.0);
  return sum;
}

/// DARE's mask of an expert in a slot: by seed, slot, the expert's place in the list, and the part of it that
/// is masked ('A', 'B', or 'D' for the full change).
inline RandomStream mask_stream(std::uint64_t seed, const std::string& slot, std::size_t place, char part) {
  return {seed, Fingerprint().add(slot).add(place).add(std::string(1, part)).state};
}

namespace detail {

template <class TensorOf>
std::vector<double> pruned_merge(const SlotExperts& experts, const TensorOf& whole, char part,
                                 const std::vector<double>& weights, PruningMethod method,
                                 const ComposeOptions& options) {
  const auto pruned = [&](std::size_t i) {
    if (!method.random) return keep_largest(whole(i), *options.density);
    const std::size_t place = experts.places[i];
    if (!options.mask)
      return keep_random(whole(i), *options.density, mask_stream(options.seed, experts.slot, place, part));
    return keep_random(whole(i), *options.density,
                       [&](Index element) { return options.mask(experts.slot, place, part, element); });
  };
  return method.elect ? disjoint_mean(experts.size(), pruned, weights, options.majority_sign)
                      : weighted_sum(experts.size(), pruned, weights);
}

}  // namespace detail

/// Pruning of A and B by themselves, as PEFT's ties, dare_* and magnitude_prune: with c = w s, A's weights
/// are sign(c) sqrt|c| and B's sqrt|c|. The result's scale is 1. The papers prune the full change instead:
/// prune_changes().    Throws ArgumentError for differing ranks.
template <class Factors = LoraFactors>
Factors prune_factors(const SlotExperts& experts, const std::vector<double>& weights, PruningMethod method,
                      const ComposeOptions& options) {
  detail::check_equal_ranks("pruning of factors", experts);
  std::vector<double> on_a, on_b;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const double c = weights[i] * experts.lora[i].scale, root = std::sqrt(std::abs(c));
    on_a.push_back(c < 0 ? -root : root);
    on_b.push_back(root);
  }
  const auto a = [&](std::size_t i) { return experts.lora[i].A; };
  const auto b = [&](std::size_t i) { return experts.lora[i].B; };
  const auto& first = experts.lora.front();
  return {first.rank,
          first.d_in,
          first.d_out,
          1.0,
          detail::pruned_merge(experts, a, 'A', on_a, method, options),
          detail::pruned_merge(experts, b, 'B', on_b, method, options)};
}

/// Pruning of the full changes s_i B_i A_i, weighted by w_i, then the closest LoRA of the rank asked for: the
/// papers' own methods with full_rank, PEFT's *_svd otherwise. Holds three changes of one slot at a time.
template <class Factors = LoraFactors>
Factors prune_changes(const SlotExperts& experts, const std::vector<double>& weights, PruningMethod method,
                      const ComposeOptions& options) {
  const auto change = [&](std::size_t i) { return delta(experts.lora[i]); };
  const auto merged = detail::pruned_merge(experts, change, 'D', weights, method, options);
  const auto& first = experts.lora.front();
  return truncated_svd<Factors>(merged, first.d_out, first.d_in, detail::wanted_rank(options.rank, experts));
}

}  // namespace mole
