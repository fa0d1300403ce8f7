#pragma once
// The cross entropy of a frozen output head. The logits of a large vocabulary are never stored: a chunk of tokens
// at a time gives its loss and the gradient of its states, and tokens without a label are left out.

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <mole/loss/cross_entropy.hpp>
#include <mole/nn/frozen_weight.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/next_labels.hpp>

namespace mole {

/// How head_cross_entropy counts and works.
struct HeadCrossEntropyOptions {
  Index ignore_index = -100;             ///< rows with this label do not count; negative
  Index chunk_numbers = Index{1} << 22;  ///< logits held at a time, and one row at least
};

namespace detail {

/// dx[index[r]] = seed / count part[r]; rows of dx that no index names stay as they are.
template <class T>
struct SpreadRow {
  using C = Compute<T>;
  const T* part;
  const Index* index;  ///< may be null: row r itself
  const C* totals;
  const T* seed;
  T* dx;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index at = index ? index[row.index()] : row.index();
    const T* const from = part + row.index() * n;
    T* const to = dx + at * n;
    const C w = totals[1] > C(0) ? C(*seed) / totals[1] : C(0);
    row.each(n, [=](Index j) { to[j] = static_cast<T>(w * C(from[j])); });
  }
};

}  // namespace detail

/// cross_entropy(x W^T, labels) for a frozen head W [V, d].      x [.., d], labels [..], the result a scalar
/// Takes 2 d numbers a labelled token and options.chunk_numbers logits, not V numbers a token.
/// Pullback of G: dx = G (softmax(x W^T) - 1[label]) W / rows, formed in the forward pass.
/// Throws ShapeError when x, W and labels do not fit or a label is outside [0, V); ArgumentError where no row
/// has a label, unless the work is recorded for a graph.
template <class T, class B>
Tensor<T, B> head_cross_entropy(const Tensor<T, B>& x, const std::type_identity_t<FrozenWeight<T, B>>& W,
                                const Tensor<Index, B>& labels, const HeadCrossEntropyOptions& options = {}) {
  MOLE_CHECK_SHAPE(x.rank() == labels.rank() + 1 && x.size(-1) == W.d_in() &&
                       std::equal(labels.shape().begin(), labels.shape().end(), x.shape().begin()),
                   "head_cross_entropy: expected x [.., d], W [V, d] and labels [..], got", x.shape(),
                   W.shape(), "and", labels.shape());
  MOLE_CHECK_ARG(options.chunk_numbers > 0, "head_cross_entropy: expected a chunk of at least one number");
  using C = Compute<T>;
  const Index V = W.d_out(), d = W.d_in(), ignore = options.ignore_index;
  labels.check_indices("head_cross_entropy: labels", V, ignore);

  // The rows that count. A graph is replayed with other labels: there all rows are looked at.
  Tensor<T, B> states = x.detach();
  Tensor<Index, B> index, targets = labels;
  if (!detail::is_capturing<B>()) {
    const auto values = labels.to_host();
    std::vector<Index> counted, label;
    for (std::size_t r = 0; r < values.size(); ++r) {
      if (values[r] == ignore) continue;
      counted.push_back(static_cast<Index>(r));
      label.push_back(values[r]);
    }
    MOLE_CHECK_ARG(!counted.empty(), "head_cross_entropy: no token has a label; there is nothing to learn");
    if (counted.size() < values.size()) {
      const Index n = static_cast<Index>(counted.size());
      index = Tensor<Index, B>::from({n}, counted);
      targets = Tensor<Index, B>::from({n}, label);
      states = gather(reshape(states, {-1, d}), index);
    }
  }

  const Index rows = targets.size(), chunk = std::min(rows, std::max<Index>(1, options.chunk_numbers / V));
  const bool wanted = x.requires_grad() && detail::recording();
  const auto logits = Tensor<T, B>::empty({chunk, V});
  const auto per_row = Tensor<C, B>::empty({2, rows}), totals = Tensor<C, B>::empty({2});
  const auto one = Tensor<T, B>::ones({1});
  const auto unit = Tensor<C, B>::ones({2});
  const auto part = wanted ? Tensor<T, B>::empty({rows, d}) : Tensor<T, B>();
  for (Index first = 0; first < rows; first += chunk) {
    const Index n = std::min(chunk, rows - first);
    W.forward(n, states.data() + first * d, false, logits.data());
    B::for_rows(n, V,
                detail::CrossEntropyRow<T>{logits.data(), targets.data() + first, per_row.data() + first,
                                           per_row.data() + rows + first, V, ignore, C(0)});
    if (!wanted) continue;
    B::for_rows(n, V,
                detail::CrossEntropyPullbackRow<T>{logits.data(), targets.data() + first, unit.data(),
                                                   one.data(), logits.data(), V, ignore, C(0)});
    W.backward(n, logits.data(), false, part.data() + first * d);
  }
  B::reduce(Reduction::sum, 2, rows, 1, per_row.data(), totals.data());
  const auto y = Tensor<T, B>::empty({});
  B::for_each(1, detail::CountedMean<T>{totals.data(), y.data()});
  return record({x}, y, [shape = x.shape(), part, index, totals, rows, d](const auto& G) {
    const auto dx = index.defined() ? Tensor<T, B>::zeros(shape) : Tensor<T, B>::empty(shape);
    B::for_rows(rows, d,
                detail::SpreadRow<T>{part.data(), index.defined() ? index.data() : nullptr, totals.data(),
                                     G.data(), dx.data(), d});
    return dx;
  });
}

}  // namespace mole
