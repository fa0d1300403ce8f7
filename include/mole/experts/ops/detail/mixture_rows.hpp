#pragma once
// The narrow middle of a mixture, row by row: h of width R times the gate, and back.

#include <algorithm>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// p = h * g, each rank column by its expert's gate. tokens_per_gate is L for a sequence gate, 1 for tokens.
template <class T>
struct GateRankRow {
  const T *h, *g;
  const Index* expert;
  T* p;
  Index rank, experts, tokens_per_gate;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = h + row.index() * rank, *const gate = g + row.index() / tokens_per_gate * experts;
    const Index* const of = expert;
    T* const to = p + row.index() * rank;
    row.each(rank, [=](Index j) { to[j] = from[j] * gate[of[j]]; });
  }
};

/// From dp: dg[t, i] = sum over the columns j of expert i of dp h, and dh = g dp, added where add is set,
/// or dh = g dp - along h.
template <class T>
struct GateRankPullbackRow {
  using C = Compute<T>;
  const T *h, *g, *dp;
  const Index* expert;
  T *dg, *dh;  ///< either may be null
  Index rank, experts, tokens_per_gate;
  bool add = false;
  const C* along = nullptr;                            ///< [tokens] or null: 0
  Index columns = rank / std::max<Index>(experts, 1);  ///< of each expert, where the ranks are equal

  /// The first column of expert i or a later one; columns are sorted by expert.
  MOLE_HD Index first_column(Index i) const {
    if (i >= experts) return rank;
    const Index guess = i * columns;
    if (expert[guess] == i && (guess == 0 || expert[guess - 1] < i)) return guess;
    Index low = 0, high = rank;
    while (low < high) {
      const Index middle = (low + high) / 2;
      if (expert[middle] < i)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const H = h + row.index() * rank, *const D = dp + row.index() * rank;
    const T* const gate = g + row.index() / tokens_per_gate * experts;
    const Index* const of = expert;
    if (dg) {
      T* const sums = dg + row.index() * experts;
      const auto& self = *this;
      row.each(experts, [=](Index i) {
        C total = 0;
        const Index last = self.first_column(i + 1);
        for (Index j = self.first_column(i); j < last; ++j) total += D[j] * H[j];
        sums[i] = total;
      });
    }
    if (dh) {
      T* const to = dh + row.index() * rank;
      const C a = along ? along[row.index()] : C(0);
      if (add)
        row.each(rank, [=](Index j) { to[j] = to[j] + D[j] * gate[of[j]]; });
      else if (along)
        row.each(rank, [=](Index j) { to[j] = D[j] * gate[of[j]] - a * H[j]; });
      else
        row.each(rank, [=](Index j) { to[j] = D[j] * gate[of[j]]; });
    }
  }
};

}  // namespace mole::detail
