#pragma once
// compose(): every usual way of combining LoRAs behind one function, so that a study changes one word. The
// result is one adapter, which merge() adds to a model and save_lora_set() (mole/io) writes for PEFT.
//
//   sum, cat, linear   sum_i w_i s_i B_i A_i, w = 1 unless given (eq. 1). Exact; rank = sum of ranks.
//                      PEFT's linear mixes A and B by themselves (cross terms B_i A_j), and its weights meet
//                      the scale on both factors: here linear is the sum that the name says
//   normalised         the same with w / sum w, equal shares unless given (eq. 2)
//   svd                the closest LoRA of `rank` to sum_i w_i s_i B_i A_i
//   pems_add           A = sum_i w_i A_i, B = sum_i w_i B_i; w = 1/N unless given: {l, 1 - l} for lambda l
//   pems_negate        A, -w B of one expert; w = 1 unless given
//   pems_subtract      w_1 a (-) w_2 b: A = w_1 A_a + w_2 A_b, B = w_1 B_a - w_2 B_b; w = 1/2 unless given
//   pems_analogy       a as c is to b: A = w_1 A_a + w_2 A_b + w_3 A_c, B = w_1 B_a + w_2 B_b - w_3 B_c;
//                      w = 1/2 unless given: {l, 1 - l, 1 - l} for lambda l
//   lorahub            pems_add with the weights that lorahub_search() found, which must be given
//   magnitude_prune, ties, dare_linear, dare_ties             pruning of A and B by themselves (pruning.hpp)
//   magnitude_prune_svd, ties_svd, dare_linear_svd, ..        pruning of the full changes, then svd to `rank`
//
// A scale s_i counts once everywhere. Some releases of PEFT multiply by it twice in svd and *_svd; 0.21 does
// not.
//
// Names and results of cat, svd, ties, dare_*, magnitude_prune and their *_svd are those of PEFT 0.21's
// add_weighted_adapter; a *_svd of full_rank is the method of its paper. Two places differ. One adapter alone is
// pruned here like several, where PEFT returns it weighted and whole. Without a rank, svd and *_svd take in each slot
// the largest rank of the slot's experts, where PEFT takes the largest of the adapters' `r` in every slot: give the
// rank to have PEFT's.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/compose/linear.hpp>
#include <mole/compose/pruning.hpp>

namespace mole {

/// The methods that compose() knows, in the order of the list above.
inline const std::vector<std::string>& composition_methods() {
  static const std::vector<std::string> names{"sum",
                                              "cat",
                                              "linear",
                                              "normalised",
                                              "svd",
                                              "pems_add",
                                              "pems_negate",
                                              "pems_subtract",
                                              "pems_analogy",
                                              "lorahub",
                                              "magnitude_prune",
                                              "ties",
                                              "dare_linear",
                                              "dare_ties",
                                              "magnitude_prune_svd",
                                              "ties_svd",
                                              "dare_linear_svd",
                                              "dare_ties_svd"};
  return names;
}

namespace detail {

// What a method does to a slot, and what it asks of the list of experts.
struct CompositionMethod {
  std::function<LoraFactors(const SlotExperts&, const std::vector<double>&, const ComposeOptions&)> combine;
  double default_weight = 1;  // of each expert; 0: 1 / N
  std::size_t experts = 0;    // exactly so many; 0: any
  bool ranked = false, pruned = false;
};

// Mixing of factors with the signs of B by the experts' places.
inline CompositionMethod mixing(std::vector<double> signs, double default_weight) {
  const auto n = signs.size();
  return {[signs = std::move(signs)](const SlotExperts& experts, const std::vector<double>& weights,
                                     const ComposeOptions&) {
            auto on_b = weights;
            for (std::size_t i = 0; i < on_b.size() && !signs.empty(); ++i)
              on_b[i] *= signs[experts.places[i]];
            return mix_factors(experts, weights, on_b);
          },
          default_weight, n};
}

template <class Factors>
CompositionMethod composition_method(const std::string& name) {
  const auto concatenation = [](const SlotExperts& experts, const std::vector<double>& weights,
                                const ComposeOptions&) { return concatenate(experts, weights); };
  if (name == "sum" || name == "cat" || name == "linear") return {concatenation};
  if (name == "normalised") return {concatenation, 0};
  if (name == "pems_add" || name == "lorahub") return mixing({}, 0);
  if (name == "pems_subtract") return mixing({1, -1}, 0.5);
  if (name == "pems_analogy") return mixing({1, 1, -1}, 0.5);
  if (name == "pems_negate")
    return {[](const SlotExperts& experts, const std::vector<double>& weights, const ComposeOptions&) {
              return mix_factors(experts, {1}, {-weights.front()});
            },
            1, 1};
  if (name == "svd")
    return {
        [](const SlotExperts& experts, const std::vector<double>& weights, const ComposeOptions& options) {
          return truncated_svd<Factors>(concatenate(experts, weights), wanted_rank(options.rank, experts));
        },
        1, 0, true};

  constexpr std::string_view ending = "_svd";
  const bool full = name.ends_with(ending);
  const auto stem = full ? name.substr(0, name.size() - ending.size()) : name;
  PruningMethod pruning;
  if (stem == "ties")
    pruning = {false, true};
  else if (stem == "dare_linear")
    pruning = {true, false};
  else if (stem == "dare_ties")
    pruning = {true, true};
  else if (stem != "magnitude_prune") {
    std::string known;
    for (const auto& method : composition_methods()) known += (known.empty() ? "" : ", ") + method;
    throw ArgumentError(message("compose: there is no method", name + "; known are", known));
  }
  return {[full, pruning](const SlotExperts& experts, const std::vector<double>& weights,
                          const ComposeOptions& options) {
            return full ? prune_changes<Factors>(experts, weights, pruning, options)
                        : prune_factors<Factors>(experts, weights, pruning, options);
          },
          1, 0, full, true};
}

inline std::vector<double> composition_weights(const std::string& method, const CompositionMethod& how,
                                               const std::vector<double>& given, std::size_t n) {
  if (given.empty()) {
    MOLE_CHECK_ARG(method != "lorahub", "lorahub: needs weights; find them with lorahub_search()");
    return how.default_weight == 0 ? mean_weights(n) : std::vector<double>(n, how.default_weight);
  }
  check_weights(method, given, n);
  if (method != "normalised") return given;
  double sum = 0, size = 0;
  for (const double w : given) {
    sum += w;
    size += std::abs(w);
  }
  MOLE_CHECK_ARG(std::abs(sum) > 1e-12 * size && size > 0, "normalised: the weights sum to", sum,
                 ", by which they cannot be divided; use sum");
  auto weights = given;
  for (double& w : weights) w /= sum;
  return weights;
}

inline std::string composition_digest(const std::string& method, const std::vector<LoraSet>& sets,
                                      const std::vector<double>& weights, const ComposeOptions& options) {
  Fingerprint digest;
  const auto number = [&](double value) { digest.add(std::bit_cast<std::uint64_t>(value)); };
  digest.add(method);
  for (const auto& set : sets) digest.add(set.name).add(set.digest);
  for (const double w : weights) number(w);
  number(options.density.value_or(0));
  digest.add(static_cast<std::uint64_t>(options.rank.value_or(0)));
  digest.add(static_cast<std::uint64_t>(options.majority_sign)).add(options.seed);
  if (options.mask) digest.add("given mask");
  return digest.hex();
}

}  // namespace detail

/// The experts combined by a method (see the top of this file) as one adapter over every slot that one of
/// them adapts. An expert absent from a slot is left out there. Factors are computed when they are asked for.
/// Throws ArgumentError for an unknown method, no experts or not as many as the method combines, weights that
/// are not one finite number an expert, a density outside (0, 1], a rank below 1; FormatError for an expert
/// that adapts nothing. What needs the factors is thrown when a slot is asked for: ArgumentError for experts
/// of differing ranks where the method needs equal ones, FormatError for experts of different bases,
/// NumericError for one that holds NaN.
template <class Factors = LoraFactors>
LoraSet compose(const std::string& method, const std::vector<LoraSet>& sets, ComposeOptions options = {}) {
  const auto how = detail::composition_method<Factors>(method);
  check_experts(method, sets);
  MOLE_CHECK_ARG(how.experts == 0 || how.experts == sets.size(), method + ": combines", how.experts,
                 how.experts == 1 ? "expert, got" : "experts, got", sets.size());
  const auto weights = detail::composition_weights(method, how, options.weights, sets.size());
  if (how.ranked && options.rank)
    MOLE_CHECK_ARG(*options.rank >= 1, method + ": expected a rank of at least 1, got", *options.rank);
  if (how.pruned) check_density(method, options.density);
  return merged_set(method, sets, detail::composition_digest(method, sets, weights, options),
                    [combine = how.combine, weights, options](const SlotExperts& experts) {
                      return combine(experts, experts.pick(weights), options);
                    });
}

/// Combines the experts and merges the result into the model's slots.
/// Throws as compose(), and FormatError, naming the expert, for one that adapts nothing in this model.
template <class T, class B>
void merge(SlotTable<T, B>& table, const std::string& method, const std::vector<LoraSet>& sets,
           const ComposeOptions& options = {}) {
  const auto merged = compose(method, sets, options);
  for (const auto& set : sets) table.check_layers(set);
  merge(table, merged);
}

}  // namespace mole
