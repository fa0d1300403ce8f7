#pragma once
// The balance loss, which keeps a gate from giving all its weight to a few experts (eq. 14-15). However many
// gates there are, it adds a handful of nodes to the tape.

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include <mole/core/buffer.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// What one gate chose for a batch.
template <class T, class B>
struct GateSample {
  Tensor<T, B> gate;           ///< [S, N_g] or [S, L, N_g], each row sums to 1
  Tensor<T, B> row_mask;       ///< undefined, or [S] or [S, L] of 0 and 1: the rows that count
  std::vector<Index> experts;  ///< the expert of each column, each once; empty means 0..N_g-1
};

/// How the weight is shared among the experts.
template <class T, class B>
struct ExpertShares {
  Tensor<T, B> q;     ///< [n], on the tape; 0 for an expert that nothing holds
  Tensor<T, B> held;  ///< [n], off the tape: 1 for the experts that a gate with a counted row holds, else 0
};

namespace detail {

/// weight[r] = mask[r] / sum of mask (1 / rows without a mask). One row in all. Without a counted row the
/// weights are 0.
template <class T>
struct RowWeights {
  using C = Compute<T>;
  const T* mask;  ///< may be null
  T* weight;
  Index rows;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const m = mask;
    T* const w = weight;
    const C count = m ? row.sum(rows, [=](Index r) { return C(m[r]); }) : static_cast<C>(rows);
    const C inverse = count > C(0) ? C(1) / count : C(0);
    row.each(rows, [=](Index r) { w[r] = m ? m[r] * inverse : inverse; });
  }
};

/// A gate [rows, n], the weights of its rows, where its columns start among those of all gates, and its
/// gradient.
template <class T>
struct GateTable {
  const T *gate, *weight;
  T* dgate;
  Index rows, n, column;
};

/// A row is a column of one of the gates: its weighted mean, and whether a row of the gate counts.
template <class T>
struct GateMeanRow {
  using C = Compute<T>;
  const GateTable<T>* tables;
  const Index* table_of;  ///< by column
  T *mean, *present;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const auto table = tables[table_of[row.index()]];
    const T *const from = table.gate + (row.index() - table.column), *const w = table.weight;
    T *const to = mean + row.index(), *const counted = present + row.index();
    const C any = row.sum(table.rows, [=](Index r) { return C(w[r]); });
    const C total = row.sum(table.rows, [=](Index r) { return C(w[r]) * C(from[r * table.n]); });
    row.each(1, [=](Index) {
      *to = total;
      *counted = any > C(0) ? C(1) : C(0);
    });
  }
};

/// A row is a gate: dgate[r, j] = weight[r] G[j].
template <class T>
struct GateMeanPullbackRow {
  using C = Compute<T>;
  const GateTable<T>* tables;
  const T* g;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const auto table = tables[row.index()];
    const T* const G = g + table.column;
    row.each(table.rows, [=](Index r) {
      const C w = table.weight[r];
      for (Index j = 0; j < table.n; ++j) table.dgate[r * table.n + j] = w * C(G[j]);
    });
  }
};

/// 1 / x, and 0 for 0.
struct InverseOrZero {
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x > T(0) ? T(1) / x : T(0);
  }
};
struct IsPositive {
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x > T(0) ? T(1) : T(0);
  }
};
struct IsZero {
  template <class T>
  MOLE_HD T operator()(T x) const {
    return x == T(0) ? T(1) : T(0);
  }
};

/// The expert of each column of all gates, in order. Throws as expert_shares does.
template <class T, class B>
std::vector<Index> check_gate_samples(const std::vector<GateSample<T, B>>& samples, Index n_experts) {
  MOLE_CHECK_ARG(!samples.empty(), "expert_shares: no gates; a model needs adapters before it has any");
  std::vector<Index> columns;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto& [gate, mask, experts] = samples[i];
    MOLE_CHECK_SHAPE(gate.defined() && (gate.rank() == 2 || gate.rank() == 3) && gate.size() > 0,
                     "expert_shares: gate", i, "is not [S, N] or [S, L, N] with rows and columns, got",
                     gate.defined() ? message(gate.shape()) : "an undefined tensor");
    const Shape rows = without_axes(gate.shape(), {-1});
    MOLE_CHECK_SHAPE(!mask.defined() || mask.shape() == rows, "expert_shares: gate", i, "of shape",
                     gate.shape(), "needs a row mask of shape", rows, "got", mask.shape());
    const Index n = gate.size(-1);
    MOLE_CHECK_SHAPE(experts.empty() || static_cast<Index>(experts.size()) == n, "expert_shares: gate", i,
                     "has", n, "columns but", experts.size(), "experts");
    std::vector<bool> seen(static_cast<std::size_t>(n_experts));
    for (Index j = 0; j < n; ++j) {
      const Index expert = experts.empty() ? j : experts[static_cast<std::size_t>(j)];
      MOLE_CHECK_ARG(expert >= 0 && expert < n_experts, "expert_shares: gate", i, "column", j, "is expert",
                     expert, "of", n_experts);
      MOLE_CHECK_ARG(!seen[static_cast<std::size_t>(expert)], "expert_shares: gate", i, "names expert",
                     expert, "twice");
      seen[static_cast<std::size_t>(expert)] = true;
      columns.push_back(expert);
    }
  }
  return columns;
}

/// y = the mean of each gate over its counted rows, all gates one after another [columns, 1]; present
/// likewise says whether the gate has such a row.    Pullback of G: dgate[r, j] = weight[r] G[j]. One node
/// and one pass for all.
template <class T, class B>
Tensor<T, B> gate_means(const std::vector<GateSample<T, B>>& samples, const Tensor<T, B>& present) {
  const auto y = Tensor<T, B>::empty(present.shape());
  std::map<std::pair<const void*, Index>, Tensor<T, B>> weights;  // by mask and number of rows
  std::vector<Tensor<T, B>> gates;
  std::vector<GateTable<T>> tables;
  std::vector<Index> table_of;
  Index most = 0;
  for (const auto& [gate, mask, experts] : samples) {
    const Index n = gate.size(-1), rows = gate.size() / n;
    const T* const from = mask.defined() ? mask.data() : nullptr;
    auto& weight = weights[{from, rows}];
    if (!weight.defined()) {
      weight = Tensor<T, B>::empty({rows});
      B::for_rows(1, rows, RowWeights<T>{from, weight.data(), rows});
    }
    tables.push_back({gate.data(), weight.data(), nullptr, rows, n, static_cast<Index>(table_of.size())});
    table_of.insert(table_of.end(), static_cast<std::size_t>(n), static_cast<Index>(gates.size()));
    most = std::max(most, rows);
    gates.push_back(gate);
  }
  {
    const Buffer<GateTable<T>, B> there(tables);
    const Buffer<Index, B> of(table_of);
    B::for_rows(of.size(), most, GateMeanRow<T>{there.data(), of.data(), y.data(), present.data()});
  }
  std::vector<Shape> shapes;
  std::vector<bool> wanted;
  for (const auto& gate : gates) {
    shapes.push_back(gate.shape());
    wanted.push_back(gate.requires_grad());
  }
  return record(gates, y, [shapes, wanted, weights, tables, most](const auto& G) {
    std::vector<Tensor<T, B>> gradients(shapes.size());
    std::vector<GateTable<T>> sent;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (!wanted[i]) continue;
      gradients[i] = Tensor<T, B>::empty(shapes[i]);
      sent.push_back(tables[i]);
      sent.back().dgate = gradients[i].data();
    }
    const Buffer<GateTable<T>, B> there(sent);
    B::for_rows(there.size(), most, GateMeanPullbackRow<T>{there.data(), G.data()});
    return gradients;
  });
}

/// q and who is held, from each gate's means: means and present [columns, 1] as gate_means() makes them, the
/// expert of each column.
template <class T, class B>
ExpertShares<T, B> shares_of_means(const Tensor<T, B>& means, const Tensor<T, B>& present,
                                   const std::vector<Index>& columns, Index n_experts) {
  const auto index = Tensor<Index, B>::from({static_cast<Index>(columns.size())}, columns);
  const auto total = scatter_add(means, index, n_experts);
  const auto holders = scatter_add(present, index, n_experts);
  const auto share = Tensor<T, B>::empty({n_experts}), held = Tensor<T, B>::empty({n_experts});
  transform<B>(n_experts, InverseOrZero{}, share.data(), holders.data());
  transform<B>(n_experts, IsPositive{}, held.data(), holders.data());
  return {mul(reshape(total, {n_experts}), share), held};
}

}  // namespace detail

/// q_i (eq. 15): the mean of each gate over its counted rows, then over the gates that hold expert i. A gate
/// without a counted row holds nothing. Token gates should count real tokens alone, by row_mask.
/// Pullback of G: dgate[r, j] = G[expert of j] / (gates that hold it) / (counted rows) for counted rows r,
/// else 0. Throws ArgumentError for no gates, an expert outside [0, n_experts) or named twice by a gate,
/// ShapeError for a gate, mask or expert list that do not fit.
template <class T, class B>
ExpertShares<T, B> expert_shares(const std::vector<GateSample<T, B>>& samples, Index n_experts) {
  MOLE_CHECK_ARG(n_experts > 0, "expert_shares: expected at least one expert, got", n_experts);
  const auto columns = detail::check_gate_samples(samples, n_experts);
  const auto present = Tensor<T, B>::empty({static_cast<Index>(columns.size()), 1});
  const auto means = detail::gate_means(samples, present);
  return detail::shares_of_means(means, present, columns, n_experts);
}

/// - sum of log q_i (eq. 14) over the experts that are held, a scalar. Pullback of G: dq_i = -G / q_i.
template <class T, class B>
Tensor<T, B> balance_of(const ExpertShares<T, B>& shares) {
  const auto absent = Tensor<T, B>::empty(shares.held.shape());
  transform<B>(absent.size(), detail::IsZero{}, absent.data(), shares.held.data());
  // A sum of logs: the product of 128 shares of 1/128 is no float. Absent experts give log(0 + 1) = 0.
  return -sum(log(add(shares.q, absent)));
}

/// L_balance = - sum of log q_i (eq. 14), a scalar. An expert that no gate holds is left out. At least n log
/// n for gates that all hold n experts, at uniform shares. Infinite when a held expert has no weight
/// anywhere, as a masked one: masks are for inference. Pullback of G: dq_i = -G / q_i, then that of
/// expert_shares.    Throws as expert_shares does.
template <class T, class B>
Tensor<T, B> balance_loss(const std::vector<GateSample<T, B>>& samples, Index n_experts) {
  return balance_of(expert_shares(samples, n_experts));
}

}  // namespace mole
