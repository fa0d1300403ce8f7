#pragma once
// Rows picked by index, and rows added at an index.

#include <vector>

#include <mole/autodiff/tensor.hpp>

namespace mole {

namespace detail {

template <class T>
struct GatherRow {
  const T* x;
  const Index* index;
  T* y;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + index[row.index()] * n;
    T* const to = y + row.index() * n;
    row.each(n, [=](Index j) { to[j] = from[j]; });
  }
};

}  // namespace detail

template <class T, class B>
Tensor<T, B> scatter_add(const Tensor<T, B>& x, const Tensor<Index, B>& index, Index rows);

/// y[i.., :] = x[index[i..], :]      x [rows, n], index any shape, y [index.., n]
/// Pullback of G: dx = scatter_add(G, index).    Throws ShapeError for an index outside [0, rows).
template <class T, class B>
Tensor<T, B> gather(const Tensor<T, B>& x, const Tensor<Index, B>& index) {
  MOLE_CHECK_SHAPE(x.rank() == 2, "gather: expected x [rows, n], got", x.shape());
  index.check_indices("gather", x.size(0));
  Shape shape = index.shape();
  shape.push_back(x.size(1));
  const auto y = Tensor<T, B>::empty(shape);
  B::for_rows(index.size(), x.size(1), detail::GatherRow<T>{x.data(), index.data(), y.data(), x.size(1)});
  return record(
      {x}, y, [index, rows = x.size(0)](const auto&, const auto& G) { return scatter_add(G, index, rows); });
}

/// y[index[i..], :] += x[i.., :] over zeros.    x [index.., n], y [rows, n]
/// Pullback of G: dx = gather(G, index).    Throws ShapeError for an index outside [0, rows).
template <class T, class B>
Tensor<T, B> scatter_add(const Tensor<T, B>& x, const Tensor<Index, B>& index, Index rows) {
  Shape expected = index.shape();
  MOLE_CHECK_SHAPE(x.rank() == index.rank() + 1, "scatter_add: expected x [index.., n], got", x.shape(),
                   "and index", index.shape());
  expected.push_back(x.size(-1));
  MOLE_CHECK_SHAPE(x.shape() == expected, "scatter_add: expected", expected, "got", x.shape());
  index.check_indices("scatter_add", rows);
  const auto y = Tensor<T, B>::zeros({rows, x.size(-1)});
  B::scatter_add(index.size(), rows, x.size(-1), index.data(), x.data(), y.data());
  return record({x}, y, [index](const auto&, const auto& G) { return gather(G, index); });
}

/// Rows of a table: y[i.., :] = table[ids[i..], :]      table [vocabulary, d], ids any shape, y [ids.., d]
/// Pullback as gather's.    Throws ShapeError for an id outside the vocabulary.
template <class T, class B>
Tensor<T, B> embedding(const Tensor<T, B>& table, const Tensor<Index, B>& ids) {
  return gather(table, ids);
}

}  // namespace mole
