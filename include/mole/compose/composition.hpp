#pragma once
// What every way of combining LoRAs shares: its options, the experts that adapt one slot, and the merged
// adapter, which computes a slot's factors when they are asked for, so that 128 experts are never in memory
// at once.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mole/core/fingerprint.hpp>
#include <mole/nn/lora.hpp>

namespace mole {

/// How TIES elects the sign of a position: by the sum of the experts' numbers, or by their votes.
enum class MajoritySign { total, frequency };

/// As rank: keep every singular value that is not rounding, so that nothing is lost.
inline constexpr Index full_rank = std::numeric_limits<Index>::max();

/// Which elements DARE keeps of expert `place` of the list in a slot: `part` is 'A', 'B' or, of *_svd, the
/// full change 'D', and `element` counts row by row. It is asked more than once and must answer the same.
using DareMask = std::function<bool(const std::string& slot, std::size_t place, char part, Index element)>;

/// The options of compose(). A method reads those it knows and leaves the others alone, so that methods can
/// be exchanged by one word.
struct ComposeOptions {
  std::vector<double> weights = {};    ///< one an expert; empty: the method's own
  std::optional<Index> rank = {};      ///< of svd and *_svd; none: the largest of the slot's experts
  std::optional<double> density = {};  ///< the share of elements that pruning keeps, in (0, 1]; must be given
  MajoritySign majority_sign = MajoritySign::total;  ///< of TIES
  std::uint64_t seed = 0;                            ///< of DARE's masks
  DareMask mask = {};  ///< DARE's own, to repeat another program's; none: by seed and density
};

/// The experts that adapt one slot, those that do not left out.
struct SlotExperts {
  std::string slot;
  std::vector<std::size_t> places;  ///< of the experts in the list that compose() got
  std::vector<std::string> names;
  std::vector<LoraFactors> lora;

  std::size_t size() const { return lora.size(); }
  /// The entries of `all`, one an expert of the whole list, that belong to these experts.
  std::vector<double> pick(const std::vector<double>& all) const {
    std::vector<double> picked;
    for (const std::size_t place : places) picked.push_back(all[place]);
    return picked;
  }
};

namespace detail {

// NaN would make a sort or an SVD run forever or worse.
inline void check_expert(const std::string& method, const std::string& name, const std::string& slot,
                         const LoraFactors& lora) {
  const auto elements = [](Index rows, Index columns) { return static_cast<std::size_t>(rows * columns); };
  MOLE_CHECK_FORMAT(lora.rank >= 1 && lora.A.size() == elements(lora.rank, lora.d_in) &&
                        lora.B.size() == elements(lora.d_out, lora.rank),
                    method + ": adapter", name, "slot", slot, "has factors of", lora.A.size(), "and",
                    lora.B.size(), "elements, which are not A", Shape{lora.rank, lora.d_in}, "and B",
                    Shape{lora.d_out, lora.rank});
  for (const auto* factor : {&lora.A, &lora.B})
    for (const double value : *factor)
      MOLE_CHECK_AS(NumericError, is_finite(value), method + ": adapter", name, "slot", slot, "holds", value,
                    "; such an adapter cannot be combined");
  MOLE_CHECK_AS(NumericError, is_finite(lora.scale), method + ": adapter", name, "slot", slot,
                "has the scale", lora.scale);
}

inline SlotExperts slot_experts(const std::string& method, const std::vector<LoraSet>& sets,
                                const std::vector<std::size_t>& places, const std::string& slot) {
  SlotExperts experts{slot, places, {}, {}};
  for (const std::size_t place : places) {
    const auto& set = sets[place];
    auto lora = set.factors(slot);
    check_expert(method, set.name, slot, lora);
    if (!experts.lora.empty()) {
      const auto& first = experts.lora.front();
      MOLE_CHECK_FORMAT(lora.d_in == first.d_in && lora.d_out == first.d_out, method + ": adapter",
                        experts.names.front(), "has", slot, "as", Shape{first.d_out, first.d_in},
                        "and adapter", set.name, "as", Shape{lora.d_out, lora.d_in},
                        "; they were trained for different bases");
    }
    experts.names.push_back(set.name);
    experts.lora.push_back(std::move(lora));
  }
  return experts;
}

// For methods that work on A and B by themselves.
inline void check_equal_ranks(const std::string& method, const SlotExperts& experts) {
  for (std::size_t i = 1; i < experts.size(); ++i)
    MOLE_CHECK_ARG(experts.lora[i].rank == experts.lora[0].rank,
                   method + ": needs experts of equal rank, but in slot", experts.slot, experts.names[0],
                   "has", experts.lora[0].rank, "and", experts.names[i], "has", experts.lora[i].rank,
                   "; use cat, svd or a *_svd method, which take any ranks");
}

inline std::string merged_name(const std::string& method, const std::vector<LoraSet>& sets) {
  constexpr std::size_t shown = 4;
  std::string name = method + "(";
  for (std::size_t i = 0; i < sets.size() && i < shown; ++i) name += (i ? ", " : "") + sets[i].name;
  return name + (sets.size() > shown ? ", +" + std::to_string(sets.size() - shown) : "") + ")";
}

}  // namespace detail

/// Throws ArgumentError for no expert at all and FormatError for one that adapts nothing.
inline void check_experts(const std::string& method, const std::vector<LoraSet>& sets) {
  MOLE_CHECK_ARG(!sets.empty(), method + ": the list of experts is empty; give at least one adapter");
  for (const auto& set : sets)
    MOLE_CHECK_FORMAT(!set.slots.empty(), method + ": adapter", set.name, "adapts nothing");
}

/// Throws ArgumentError unless there is one finite weight an expert.
inline void check_weights(const std::string& method, const std::vector<double>& weights, std::size_t n) {
  MOLE_CHECK_ARG(weights.size() == n, method + ": expected one weight for each of", n, "experts, got",
                 weights.size());
  for (const double w : weights) MOLE_CHECK_ARG(is_finite(w), method + ": a weight is", w);
}

/// The merged adapter: it adapts every slot that one of `sets` adapts, and has there the factors that
/// `combine` makes of the slot's experts, each time they are asked for. `digest` should tell its content.
/// Throws as check_experts(); its factors() throw FormatError for experts that do not fit each other,
/// NumericError for one that holds NaN or infinite numbers, and what `combine` throws.
inline LoraSet merged_set(const std::string& method, std::vector<LoraSet> sets, std::string digest,
                          std::function<LoraFactors(const SlotExperts&)> combine) {
  check_experts(method, sets);
  LoraSet merged{detail::merged_name(method, sets), std::move(digest), {}, {}};
  std::unordered_map<std::string, std::vector<std::size_t>> adapting;
  for (std::size_t i = 0; i < sets.size(); ++i)
    for (const auto& slot : sets[i].slots) {
      auto& places = adapting[slot];
      if (places.empty()) merged.slots.push_back(slot);
      places.push_back(i);
    }
  struct Kept {
    std::vector<LoraSet> sets;
    std::unordered_map<std::string, std::vector<std::size_t>> adapting;
  };
  const auto kept = std::make_shared<const Kept>(Kept{std::move(sets), std::move(adapting)});
  merged.factors = [method, kept, combine = std::move(combine)](const std::string& slot) {
    const auto found = kept->adapting.find(slot);
    MOLE_CHECK_ARG(found != kept->adapting.end(), method + ": none of the experts adapts", slot);
    return combine(detail::slot_experts(method, kept->sets, found->second, slot));
  };
  return merged;
}

}  // namespace mole
