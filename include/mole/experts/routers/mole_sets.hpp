#pragma once
// MoLE's gates of several sets in one go, off the tape: each sequence of a batch reads with the weights of the set that it
// asks for. On a device a product for each set would take longer to launch than to compute.

#include <algorithm>
#include <cstdint>
#include <vector>

#include <mole/core/transform.hpp>
#include <mole/experts/gate.hpp>
#include <mole/ops/norm.hpp>
#include <mole/ops/softmax.hpp>

namespace mole {

namespace detail {

/// Which set each sequence has, and where the sets' tensors lie in memory: one upload for all.
template <class T, class B>
class SetTable {
 public:
  explicit SetTable(const std::vector<Index>& sets) : list_(sets) {}
  /// Adds what each set has of a kind; returns where their addresses will begin.
  Index add(const std::vector<Tensor<T, B>>& tensors) {
    const auto begin = static_cast<Index>(list_.size());
    for (const auto& tensor : tensors)
      list_.push_back(static_cast<Index>(reinterpret_cast<std::intptr_t>(tensor.data())));
    return begin;
  }
  void upload() { table_ = Tensor<Index, B>::from({static_cast<Index>(list_.size())}, list_); }
  /// After upload(): the set of each sequence, and addresses from `begin` on.
  const Index* sets() const { return table_.data(); }
  const Index* at(Index begin) const { return table_.data() + begin; }

 private:
  std::vector<Index> list_;
  Tensor<Index, B> table_;
};

/// What lies at an address.
template <class T>
MOLE_HD const T* at_address(Index address) {
  return reinterpret_cast<const T*>(static_cast<std::intptr_t>(address));
}

/// y = (x - mean) * factor by the scale of each row's set; `factor_step` is 0 where one factor does for all features.
template <class T>
struct ScaleBySetRow {
  const T* x;
  const Index *set_of, *mean, *factor;
  T* y;
  Index n, rows_a_sequence, factor_step;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index set = set_of[row.index() / rows_a_sequence], step = factor_step;
    const T *const from = x + row.index() * n, *const shift = at_address<T>(mean[set]),
                   *const by = at_address<T>(factor[set]);
    T* const to = y + row.index() * n;
    row.each(n, [=](Index j) { to[j] = (from[j] - shift[j]) * by[j * step]; });
  }
};

/// A chunk of the products of one row of x with the matrix [n, columns] of its set, over the set's tau where there is one.
template <class T>
struct SetProductRow {
  using C = Compute<T>;
  const T* x;
  const Index *set_of, *matrix, *log_tau;
  C* parts;  ///< [rows, chunks, columns]
  Index n, columns, chunks, chunk, rows_a_sequence;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index r = row.index() / chunks, first = row.index() % chunks * chunk, step = columns,
                last = first + chunk < n ? first + chunk : n, set = set_of[r / rows_a_sequence];
    const T *const from = x + r * n, *const of = at_address<T>(matrix[set]);
    const C factor = log_tau ? exp(-C(*at_address<T>(log_tau[set]))) : C(1);
    C* const to = parts + row.index() * columns;
    row.each(columns, [=](Index j) {
      C sum = 0;
      for (Index i = first; i < last; ++i) sum += C(from[i]) * C(of[i * step + j]);
      to[j] = sum * factor;
    });
  }
};

/// y = x M / tau with the M [n, columns] and log_tau [] of each sequence's set, at these addresses; without tau where
/// `log_tau` is null.      x [S, .., n], y [S, .., columns]
template <class T, class B>
Tensor<T, B> product_by_set(const Tensor<T, B>& x, Index columns, const Index* set_of, const Index* matrix,
                            const Index* log_tau) {
  constexpr Index chunk = 64;  // so that many threads read a matrix at once
  const Index n = x.size(-1), rows = x.size() / std::max<Index>(n, 1),
              chunks = std::max<Index>(1, (n + chunk - 1) / chunk);
  const Buffer<Compute<T>, B> parts(rows * chunks * columns), sums(rows * columns);
  B::for_rows(rows * chunks, columns,
              SetProductRow<T>{x.data(), set_of, matrix, log_tau, parts.data(), n, columns, chunks, chunk,
                               rows / std::max<Index>(x.size(0), 1)});
  B::reduce(Reduction::sum, rows, chunks, columns, static_cast<const Compute<T>*>(parts.data()), sums.data());
  const auto y = Tensor<T, B>::empty(x.shape().with(-1, columns));
  transform<B>(y.size(), functor::Identity{}, y.data(), static_cast<const Compute<T>*>(sums.data()));
  return y;
}

/// What all gates of a list have in one of their members.
template <class T, class B, class Get>
std::vector<Tensor<T, B>> of_each(const std::vector<const Gate<T, B>*>& gates, Get get) {
  std::vector<Tensor<T, B>> list;
  for (const auto* gate : gates) list.push_back(get(*gate));
  return list;
}

}  // namespace detail

/// The softmax of MoLE's gate before top-k (gate_weights()), sequence s by the gate of number sets[s] among `gates`, which
/// have the same features, experts and kind of scale.  v [S, .., features], keep [N] or undefined, result [S, .., N]
/// Off the tape.
template <class T, class B>
Tensor<T, B> softmax_of_sets(const std::vector<const Gate<T, B>*>& gates, const std::vector<Index>& sets,
                             const Tensor<T, B>& v, const Tensor<T, B>& keep) {
  const NoGrad off;
  const Gate<T, B>& first = *gates.front();
  const bool scaled = first.scale.defined(), factored = first.U.defined();
  detail::SetTable<T, B> table(sets);
  const auto add = [&](bool there, auto get) {
    return there ? table.add(detail::of_each<T, B>(gates, get)) : 0;
  };
  const Index mean = add(scaled, [](const auto& gate) { return gate.scale.mean; });
  const Index factor = add(scaled, [](const auto& gate) { return gate.scale.factor; });
  const Index U = add(factored, [](const auto& gate) { return gate.U; });
  const Index F = add(true, [&](const auto& gate) { return factored ? gate.V : gate.weight; });
  const Index log_tau = add(true, [](const auto& gate) { return gate.log_tau; });
  table.upload();
  auto read = unit_rows(v);
  const Index n = v.size(-1), rows = v.size() / std::max<Index>(n, 1);
  if (scaled) {
    const auto z = Tensor<T, B>::empty(read.shape());
    B::for_rows(rows, n,
                detail::ScaleBySetRow<T>{read.data(), table.sets(), table.at(mean), table.at(factor),
                                         z.data(), n, rows / std::max<Index>(v.size(0), 1),
                                         first.scale.factor.rank() == 0 ? 0 : 1});
    read = z;
  }
  if (factored) read = detail::product_by_set(read, first.U.size(1), table.sets(), table.at(U), nullptr);
  return softmax(
      detail::product_by_set(read, first.n_experts(), table.sets(), table.at(F), table.at(log_tau)), keep);
}

}  // namespace mole
