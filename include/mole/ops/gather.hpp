#pragma once
// Rows picked by index, rows added at an index, and each row's own elements.

#include <vector>

#include <mole/autodiff/record.hpp>

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

/// y[r, j] = x[r, index[r, j]].
template <class T>
struct TakeRow {
  const T* x;
  const Index* index;
  T* y;
  Index n, k;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    const Index* const of = index + row.index() * k;
    T* const to = y + row.index() * k;
    row.each(k, [=](Index j) { to[j] = from[of[j]]; });
  }
};

/// dx[r, i] = sum of G[r, j] over the j with index[r, j] = i.
template <class T>
struct TakePullbackRow {
  const T* g;
  const Index* index;
  T* dx;
  Index n, k;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const G = g + row.index() * k;
    const Index* const of = index + row.index() * k;
    T* const to = dx + row.index() * n;
    const Index count = k;
    row.each(n, [=](Index i) {
      Compute<T> total = 0;
      for (Index j = 0; j < count; ++j) total += of[j] == i ? Compute<T>(G[j]) : Compute<T>(0);
      to[i] = total;
    });
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
  return record({x}, y, [index, rows = x.size(0)](const auto& G) { return scatter_add(G, index, rows); });
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
  return record({x}, y, [index](const auto& G) { return gather(G, index); });
}

/// Rows of a table: y[i.., :] = table[ids[i..], :]      table [vocabulary, d], ids any shape, y [ids.., d]
/// Pullback as gather's.    Throws ShapeError for an id outside the vocabulary.
template <class T, class B>
Tensor<T, B> embedding(const Tensor<T, B>& table, const Tensor<Index, B>& ids) {
  return gather(table, ids);
}

/// Each row's own choice of elements: y[.., j] = x[.., index[.., j]].      x [.., n], index and y [.., k]
/// with the same leading axes. Pullback of G: dx[.., i] = sum of G[.., j] over the j with index[.., j] = i.
/// Throws ShapeError for other shapes or an index outside [0, n).
template <class T, class B>
Tensor<T, B> take(const Tensor<T, B>& x, const Tensor<Index, B>& index) {
  MOLE_CHECK_SHAPE(
      x.rank() >= 1 && index.rank() == x.rank() && index.shape().with(-1, x.size(-1)) == x.shape(),
      "take: expected x [.., n] and index [.., k], got", x.shape(), "and", index.shape());
  const Index n = x.size(-1), k = index.size(-1), rows = x.shape().size(0, x.rank() - 1);
  index.check_indices("take", n);
  const auto y = Tensor<T, B>::empty(index.shape());
  B::for_rows(rows, k, detail::TakeRow<T>{x.data(), index.data(), y.data(), n, k});
  return record({x}, y, [index, shape = x.shape(), n, k, rows](const auto& G) {
    const auto dx = Tensor<T, B>::empty(shape);
    B::for_rows(rows, n, detail::TakePullbackRow<T>{G.data(), index.data(), dx.data(), n, k});
    return dx;
  });
}

}  // namespace mole
