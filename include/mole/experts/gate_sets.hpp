#pragma once
// The gates over a model's experts: the model's own, and further sets for requests. In a batch of several users' requests
// each sequence is weighed by the set that it asks for, or has fixed weights.

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
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

/// The sets that sequences ask for, one after another: `while (turn.next())`. Their numbers are -1 (fixed weights) and
/// those below n_sets.
template <class B>
class SetsInTurn {
 public:
  SetsInTurn(const std::vector<Index>& sets, Index n_sets)
      : sets_(sets), n_sets_(n_sets), place_(sets.size()) {}

  /// Goes on to the next set that a sequence asks for; false where none is left.
  bool next() {
    while (++number_ < n_sets_) {
      std::vector<Index> rows;
      for (std::size_t s = 0; s < sets_.size(); ++s)
        if (sets_[s] == number_) {
          rows.push_back(static_cast<Index>(s));
          place_[s] = had_turn_++;
        }
      if (rows.empty()) continue;
      all_ = rows.size() == sets_.size();
      rows_ = all_ ? Tensor<Index, B>() : Tensor<Index, B>::from({static_cast<Index>(rows.size())}, rows);
      return true;
    }
    return false;
  }
  Index number() const { return number_; }
  /// Its sequences [n]; undefined where all sequences ask for it.
  const Tensor<Index, B>& rows() const { return rows_; }
  /// Where each sequence stands in the order of the turns; undefined where it stands where it was.
  Tensor<Index, B> place() const {
    return all_ ? Tensor<Index, B>() : Tensor<Index, B>::from({had_turn_}, place_);
  }

 private:
  const std::vector<Index>& sets_;
  Index n_sets_, number_ = -2, had_turn_ = 0;
  std::vector<Index> place_;
  Tensor<Index, B> rows_;
  bool all_ = false;
};

/// The sequences `rows` of x [S, ..]; x itself where rows is undefined.
template <class T, class B>
Tensor<T, B> some_rows(const Tensor<T, B>& x, const Tensor<Index, B>& rows) {
  return rows.defined() ? select_sequences(x, rows) : x;
}

/// Puts the values of further sequences behind those of some.
template <class T, class B>
void append(std::optional<GateValue<T, B>>& all, const GateValue<T, B>& more) {
  if (all)
    all = GateValue<T, B>{concat<T, B>({all->weights, more.weights}, 0),
                          concat<T, B>({all->dense, more.dense}, 0)};
  else
    all = more;
}

/// The values of sequences, each taken from where it stands.
template <class T, class B>
GateValue<T, B> in_order(const GateValue<T, B>& all, const Tensor<Index, B>& place) {
  return {some_rows(all.weights, place), some_rows(all.dense, place)};
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
      : own_(std::move(own)),
        mask_(no_mask<T, B>(n_experts, outside)),
        n_experts_(n_experts),
        outside_(outside) {}

  const GateSet<T, B>& own() const { return own_; }
  GateSet<T, B>& own() { return own_; }
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
    for (auto& other : more_)
      if (other.name == set.name) {
        other = std::move(set);
        return;
      }
    more_.push_back(std::move(set));
  }
  /// The number of an added set.    Throws ArgumentError, naming those that there are.
  Index find(const std::string& name) const {
    std::string known;
    for (std::size_t i = 0; i < more_.size(); ++i) {
      if (more_[i].name == name) return static_cast<Index>(i) + 1;
      known += (known.empty() ? "" : ", ") + more_[i].name;
    }
    throw ArgumentError(message("mixer: there is no set of gates named", name + ";",
                                known.empty() ? "none was added" : "there are " + known));
  }

  /// Gate i of each sequence's set, from what all of them read, v [S, .., features].
  GateValue<T, B> weigh(std::size_t i, const Tensor<T, B>& v, const MolePass<T, B>& pass) const {
    if (pass.sets.empty()) return own().router->weigh(own().gates[i], v, mask_of(i, pass));
    check(pass, v.size(0));
    if (auto at_once = weigh_at_once(i, v, pass)) return *at_once;
    std::optional<GateValue<T, B>> all;
    detail::SetsInTurn<B> turn(pass.sets, size());
    while (turn.next()) {
      const auto& set = set_of(std::max<Index>(turn.number(), 0));
      detail::append(
          all, turn.number() == pass.fixed
                   ? fixed_at(i, turn.rows(), v.size(1), pass)
                   : set.router->weigh(set.gates[i], detail::some_rows(v, turn.rows()), mask_of(i, pass)));
    }
    return detail::in_order(*all, turn.place());
  }

  /// All gates of a router of two passes, from the last hidden state z [S, L, d] of the first one and its mask.
  void classify(const Tensor<T, B>& z, const Tensor<T, B>& mask, MolePass<T, B>& pass) const {
    std::vector<Tensor<T, B>> keep;
    for (std::size_t i = 0; i < own().gates.size(); ++i) keep.push_back(mask_of(i, pass));
    const auto of_set = [&](Index number, const Tensor<Index, B>& rows) {
      const auto& set = set_of(number);
      return set.router->classify(detail::some_rows(z, rows), detail::some_rows(mask, rows), set.gates, keep);
    };
    pass.gates.clear();
    if (pass.sets.empty()) {
      for (auto& value : of_set(0, {})) pass.gates.push_back(std::move(value));
      return;
    }
    check(pass, z.size(0));
    pass.gates.resize(own().gates.size());
    detail::SetsInTurn<B> turn(pass.sets, size());
    while (turn.next()) {
      if (turn.number() != pass.fixed) {
        const auto values = of_set(turn.number(), turn.rows());
        for (std::size_t i = 0; i < values.size(); ++i) detail::append(pass.gates[i], values[i]);
      } else {
        for (std::size_t i = 0; i < pass.gates.size(); ++i)
          detail::append(pass.gates[i], fixed_at(i, turn.rows(), z.size(1), pass));
      }
    }
    const auto order = turn.place();
    for (auto& gate : pass.gates) gate = detail::in_order(*gate, order);
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
    std::optional<GateValue<T, B>> all;
    detail::SetsInTurn<B> turn(pass.sets, size());
    while (turn.next()) {
      const auto given = detail::some_rows(turn.number() == pass.fixed ? pass.weights : shared, turn.rows());
      detail::append(all, GateValue<T, B>{given, given});
    }
    return detail::in_order(*all, turn.place()).weights;
  }

 private:
  Index size() const { return static_cast<Index>(more_.size()) + 1; }
  const GateSet<T, B>& set_of(Index number) const {
    return number == 0 ? own_ : more_[static_cast<std::size_t>(number - 1)];
  }

  /// Throws ShapeError unless a pass names a set for each of S sequences, and has weights [S, N] where some are fixed;
  /// ArgumentError for a number that is not that of a set.
  void check(const MolePass<T, B>& pass, Index S) const {
    MOLE_CHECK_SHAPE(static_cast<Index>(pass.sets.size()) == S, "mixer: expected a set of gates for each of",
                     S, "sequences (MolePass::sets), got", pass.sets.size());
    for (const Index number : pass.sets)
      MOLE_CHECK_ARG(number >= pass.fixed && number < size(), "mixer: there is no set of gates", number,
                     "; the last one is", more_.size());
    MOLE_CHECK_SHAPE(
        !pass.any_fixed() || (pass.weights.defined() && pass.weights.shape() == Shape({S, n_experts_})),
        "mixer: some sequences have fixed weights (MolePass::sets), so weights of shape",
        Shape({S, n_experts_}), "are expected, got", pass.weights.defined() ? pass.weights.shape() : Shape{});
  }

  /// The same by one product for all sets; nothing on the tape, where some weights are fixed, and from routers that cannot.
  /// The processor's BLAS multiplies set by set faster.
  std::optional<GateValue<T, B>> weigh_at_once(std::size_t i, const Tensor<T, B>& v,
                                               const MolePass<T, B>& pass) const {
    if constexpr (!std::same_as<B, Cpu>)
      if (!detail::recording() && !pass.any_fixed()) {
        std::vector<const Gate<T, B>*> gates;
        for (Index number = 0; number < size(); ++number) gates.push_back(&set_of(number).gates[i].gate);
        return own().router->weigh_sets(gates, pass.sets, v, mask_of(i, pass));
      }
    return {};
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

  GateSet<T, B> own_;
  std::vector<GateSet<T, B>> more_;
  ExpertMask<T, B> mask_;
  Index n_experts_ = 0;
  OutsideWeight outside_ = OutsideWeight::mean;
};

}  // namespace mole
