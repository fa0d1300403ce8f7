#pragma once
// The gates over a model's experts: the model's own, and further sets for requests. In a batch of several users' requests
// each sequence is weighed by the set that it asks for, or has fixed weights.

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/expert_mask.hpp>
#include <mole/experts/pass.hpp>
#include <mole/experts/plan.hpp>
#include <mole/experts/routers/router.hpp>
#include <mole/nn/kv_cache.hpp>
#include <mole/ops/arithmetic.hpp>

namespace mole {

/// Gates over the experts of a model with the router that weighs by them.
template <class T, class B>
struct GateSet {
  std::string name;
  std::shared_ptr<const AnyRouter<T, B>> router;
  std::vector<PlacedGate<T, B>> gates;  ///< where they stand, with what the router keeps for each
};

namespace detail {

/// The sequences of a batch that are weighed alike.
struct RequestGroup {
  Index set = 0;            ///< as in MolePass::sets
  std::vector<Index> rows;  ///< ascending
};

/// The sequences of each set that occurs.
inline std::vector<RequestGroup> request_groups(const std::vector<Index>& sets) {
  std::vector<RequestGroup> groups;
  for (std::size_t s = 0; s < sets.size(); ++s) {
    auto found = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.set == sets[s]; });
    if (found == groups.end()) found = groups.insert(groups.end(), {sets[s], {}});
    found->rows.push_back(static_cast<Index>(s));
  }
  return groups;
}

/// Weighs the sequences group by group: weigh(set, rows) is the value of one group, where rows [n] are its sequences,
/// or undefined where all sequences are one group. Returns the value of all sequences in their order.
template <class T, class B, class Weigh>
GateValue<T, B> weigh_requests(const std::vector<Index>& sets, Weigh weigh) {
  const auto groups = request_groups(sets);
  if (groups.size() == 1) return weigh(groups.front().set, Tensor<Index, B>());
  std::vector<Tensor<T, B>> weights, dense;
  std::vector<Index> place(sets.size());
  Index next = 0;
  for (const auto& [set, rows] : groups) {
    for (const Index row : rows) place[static_cast<std::size_t>(row)] = next++;
    auto value = weigh(set, Tensor<Index, B>::from({static_cast<Index>(rows.size())}, rows));
    weights.push_back(std::move(value.weights));
    dense.push_back(std::move(value.dense));
  }
  const auto order = Tensor<Index, B>::from({next}, place);
  return {select_sequences(concat(weights, 0), order), select_sequences(concat(dense, 0), order)};
}

/// The sequences `rows` of x [S, ..]; x itself where rows is undefined.
template <class T, class B>
Tensor<T, B> some_rows(const Tensor<T, B>& x, const Tensor<Index, B>& rows) {
  return rows.defined() ? select_sequences(x, rows) : x;
}

/// The columns of the weights [S, n_experts] of all experts that belong to a gate's.
template <class T, class B>
Tensor<T, B> gate_columns(const Tensor<T, B>& weights, const std::vector<Index>& experts, Index n_experts) {
  if (static_cast<Index>(experts.size()) == n_experts) return weights;
  std::vector<Index> columns;
  for (Index s = 0; s < weights.size(0); ++s) columns.insert(columns.end(), experts.begin(), experts.end());
  return take(weights,
              Tensor<Index, B>::from({weights.size(0), static_cast<Index>(experts.size())}, columns));
}

/// Fixed weights [S, N] as the value of a gate; with L > 0 the same for each of L tokens, [S, L, N].
template <class T, class B>
GateValue<T, B> fixed_value(const Tensor<T, B>& weights, Index L) {
  if (L == 0) return {weights, weights};
  const Index S = weights.size(0), N = weights.size(1);
  const auto by_token = add(Tensor<T, B>::zeros({S, L, N}), reshape(weights, {S, 1, N}));
  return {by_token, by_token};
}

}  // namespace detail

/// All sets of gates over the experts of a model: its own, number 0, and those that were added for requests. All of them
/// stand in the same places.
template <class T, class B>
class GateSets {
 public:
  GateSets() = default;
  GateSets(GateSet<T, B> own, Index n_experts, OutsideWeight outside)
      : list_{std::move(own)}, n_experts_(n_experts), outside_(outside) {
    set_mask(std::vector<bool>(static_cast<std::size_t>(n_experts), true));
  }

  const GateSet<T, B>& own() const { return list_.front(); }
  GateSet<T, B>& own() { return list_.front(); }
  /// Masks experts in all sets.    Throws as make_mask().
  void set_mask(const std::vector<bool>& keep) { mask_ = make_mask(keep, n_experts_, own().gates, outside_); }
  Tensor<T, B> mask_of(std::size_t gate, const MolePass<T, B>& pass) const {
    return pass.keep.defined() ? pass.keep : mask_.of(gate);
  }

  /// A set like the own one, of the same router and options, for add(). It does not train.
  GateSet<T, B> like_own(const std::string& name, const ExpertBank<T, B>& bank,
                         const SlotTable<T, B>& table) const {
    GateSet<T, B> set{name, {}, own().gates};
    set.router = own().router->anew({set.gates, bank, table});
    for (auto& tensor : set.router->tensors()) tensor.set_requires_grad(false);
    return set;
  }
  /// Adds a set, or puts it in the place of the one of its name.
  void add(GateSet<T, B> set) {
    const auto same =
        std::find_if(list_.begin() + 1, list_.end(), [&](const auto& s) { return s.name == set.name; });
    if (same == list_.end())
      list_.push_back(std::move(set));
    else
      *same = std::move(set);
  }
  /// The number of an added set.    Throws ArgumentError, naming those that there are.
  Index find(const std::string& name) const {
    std::string known;
    for (std::size_t i = 1; i < list_.size(); ++i) {
      if (list_[i].name == name) return static_cast<Index>(i);
      known += (known.empty() ? "" : ", ") + list_[i].name;
    }
    throw ArgumentError(message("mixer: there is no set of gates named", name + ";",
                                known.empty() ? "none was added" : "there are " + known));
  }

  /// Gate i of each sequence's set, from what all of them read, v [S, .., features].
  GateValue<T, B> weigh(std::size_t i, const Tensor<T, B>& v, const MolePass<T, B>& pass) const {
    if (pass.sets.empty()) return own().router->weigh(own().gates[i], v, mask_of(i, pass));
    check(pass, v.size(0));
    return detail::weigh_requests<T, B>(pass.sets, [&](Index number, const auto& rows) {
      if (number == MolePass<T, B>::fixed) return fixed_at(i, rows, v.size(1), pass);
      const auto& set = list_[static_cast<std::size_t>(number)];
      return set.router->weigh(set.gates[i], detail::some_rows(v, rows), mask_of(i, pass));
    });
  }

  /// All gates of a router of two passes, from the last hidden state z [S, L, d] of the first one and its mask.
  void classify(const Tensor<T, B>& z, const Tensor<T, B>& mask, MolePass<T, B>& pass) const {
    std::vector<Tensor<T, B>> keep;
    for (std::size_t i = 0; i < own().gates.size(); ++i) keep.push_back(mask_of(i, pass));
    if (!pass.sets.empty()) check(pass, z.size(0));
    std::map<Index, std::vector<GateValue<T, B>>> by_set;
    const auto values_of = [&](Index number, const Tensor<Index, B>& rows) -> auto& {
      auto& values = by_set[number];
      const auto& set = list_[static_cast<std::size_t>(number)];
      if (values.empty())
        values =
            set.router->classify(detail::some_rows(z, rows), detail::some_rows(mask, rows), set.gates, keep);
      return values;
    };
    pass.gates.clear();
    for (std::size_t i = 0; i < own().gates.size(); ++i)
      pass.gates.push_back(pass.sets.empty()
                               ? values_of(0, {})[i]
                               : detail::weigh_requests<T, B>(pass.sets, [&](Index number, const auto& rows) {
                                   if (number == MolePass<T, B>::fixed)
                                     return fixed_at(i, rows, z.size(1), pass);
                                   return values_of(number, rows)[i];
                                 }));
  }

  /// Gives the gates of a pass with fixed weights alone their columns of these.    Throws ShapeError.
  void take_weights(MolePass<T, B>& pass) const {
    MOLE_CHECK_SHAPE(pass.weights.rank() == 2 && pass.weights.size(1) == n_experts_,
                     "mixer: expected a pass's weights [S,", n_experts_, "], got", pass.weights.shape());
    for (std::size_t i = 0; i < own().gates.size(); ++i)
      if (!pass.gates[i]) pass.gates[i] = fixed_at(i, {}, 0, pass);
  }

  /// The weights [S, N] of all experts at a slot outside every scope, for S sequences.
  Tensor<T, B> outside_weights(const MolePass<T, B>& pass, Index S) const {
    if (pass.all_fixed()) return pass.weights;
    const auto shared = mole::add(Tensor<T, B>::zeros({S, n_experts_}), mask_.outside);
    if (!pass.any_fixed()) return shared;
    check(pass, S);
    return detail::weigh_requests<T, B>(pass.sets,
                                        [&](Index number, const Tensor<Index, B>& rows) {
                                          const auto own = detail::some_rows(
                                              number == MolePass<T, B>::fixed ? pass.weights : shared, rows);
                                          return GateValue<T, B>{own, own};
                                        })
        .weights;
  }

 private:
  /// Throws ShapeError unless a pass names a set for each of S sequences, and has weights [S, N] where some are fixed;
  /// ArgumentError for a number that is not that of a set.
  void check(const MolePass<T, B>& pass, Index S) const {
    MOLE_CHECK_SHAPE(static_cast<Index>(pass.sets.size()) == S, "mixer: expected a set of gates for each of",
                     S, "sequences (MolePass::sets), got", pass.sets.size());
    for (const Index number : pass.sets)
      MOLE_CHECK_ARG(number >= pass.fixed && number < static_cast<Index>(list_.size()),
                     "mixer: there is no set of gates", number, "; the last one is", list_.size() - 1);
    MOLE_CHECK_SHAPE(
        !pass.any_fixed() || (pass.weights.defined() && pass.weights.shape() == Shape({S, n_experts_})),
        "mixer: some sequences have fixed weights (MolePass::sets), so weights of shape",
        Shape({S, n_experts_}), "are expected, got", pass.weights.defined() ? pass.weights.shape() : Shape{});
  }

  /// The fixed weights of some sequences as the value of gate i, for each of L tokens where it has a row a token.
  GateValue<T, B> fixed_at(std::size_t i, const Tensor<Index, B>& rows, Index L,
                           const MolePass<T, B>& pass) const {
    const auto& placed = own().gates[i];
    const auto given =
        detail::gate_columns(detail::some_rows(pass.weights, rows), placed.gate.experts, n_experts_);
    // Where all are fixed, a row a sequence is enough.
    return detail::fixed_value(given, placed.by_token && !pass.all_fixed() ? L : 0);
  }

  std::vector<GateSet<T, B>> list_;
  ExpertMask<T, B> mask_;
  Index n_experts_ = 0;
  OutsideWeight outside_ = OutsideWeight::mean;
};

}  // namespace mole
