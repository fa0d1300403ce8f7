#pragma once
// Tensors taken apart and put together: reshape, transpose, slice, concat.

#include <algorithm>
#include <array>
#include <concepts>
#include <vector>

#include <mole/autodiff/record.hpp>

namespace mole {

namespace detail {

/// The axis as a number in [0, rank). Throws ShapeError naming the op.
inline int axis_of(const char* op, const Shape& shape, int axis) {
  MOLE_CHECK_SHAPE(axis >= -shape.rank() && axis < shape.rank(), op, ": axis", axis, "does not exist in",
                   shape);
  return shape.axis(axis);
}

/// y = x with axes permuted: y[i_0, ..] = x at the strides given per axis of y; one row is y's last axis.
template <class T>
struct PermuteRow {
  const T* x;
  T* y;
  int rank;
  std::array<Index, Shape::max_rank> extent, stride;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    Index at = row.index(), offset = 0;
    for (int i = rank - 2; i >= 0; --i) {
      const auto axis = static_cast<std::size_t>(i);
      offset += at % extent[axis] * stride[axis];
      at /= extent[axis];
    }
    const auto last = static_cast<std::size_t>(rank - 1);
    const Index n = extent[last], step = stride[last];
    const T* const from = x + offset;
    T* const to = y + row.index() * n;
    row.each(n, [=](Index j) { to[j] = from[j * step]; });
  }
};

/// to[r * to_step + j] = from[r * from_step + j] for j in [0, n). A row may be copied in parts, each as a row of its own.
template <class T>
struct CopyRow {
  const T* from;
  T* to;
  Index n, from_step, to_step, parts = 1, part = n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index r = row.index() / parts, first = row.index() % parts * part;
    const T* const source = from + r * from_step + first;
    T* const target = to + r * to_step + first;
    row.each(n - first < part ? n - first : part, [=](Index j) { target[j] = source[j]; });
  }
};

/// Copies rows of n elements, to_step and from_step apart. Long rows are cut, so that few of them are shared out too.
template <class T, class B>
void copy_rows(Index rows, Index n, const T* from, Index from_step, T* to, Index to_step) {
  if (rows == 1) return B::copy(to, from, n);
  constexpr Index longest = 4096;
  const Index parts = n > longest ? (n + longest - 1) / longest : 1, part = parts > 1 ? longest : n;
  B::for_rows(rows * parts, part, CopyRow<T>{from, to, n, from_step, to_step, parts, part});
}

}  // namespace detail

/// The same elements in another shape; one extent may be -1 and follows from the others. No copy.
/// Pullback of G: dx = G in x's shape.    Throws ShapeError when the sizes differ.
template <class T, class B>
Tensor<T, B> reshape(const Tensor<T, B>& x, std::vector<Index> extents) {
  Index known = 1;
  auto open = extents.end();
  for (auto it = extents.begin(); it != extents.end(); ++it) {
    if (*it != -1) {
      known *= *it;
      continue;
    }
    MOLE_CHECK_SHAPE(open == extents.end(), "reshape: only one extent may be -1");
    open = it;
  }
  if (open != extents.end()) *open = known == 0 ? 0 : x.size() / known;
  const Shape shape(extents);
  MOLE_CHECK_SHAPE(shape.size() == x.size(), "reshape:", x.shape(), "does not fit into", shape);
  return record({x}, Tensor<T, B>(shape, x.buffer()),
                [shape = x.shape()](const auto& G) { return Tensor<T, B>(shape, G.buffer()); });
}
template <class T, class B, std::same_as<Shape> S>
Tensor<T, B> reshape(const Tensor<T, B>& x, const S& shape) {
  return reshape(x, std::vector<Index>(shape.begin(), shape.end()));
}

/// Axis i of y is axis order[i] of x.    Pullback of G: dx = G with the inverse order.
/// Throws ShapeError unless order is a permutation of x's axes.
template <class T, class B>
Tensor<T, B> permute(const Tensor<T, B>& x, std::vector<int> order) {
  const int rank = x.rank();
  std::vector<int> inverse(static_cast<std::size_t>(rank), -1);
  MOLE_CHECK_SHAPE(order.size() == inverse.size(), "permute: expected", rank, "axes for", x.shape(), "got",
                   order.size());
  std::array<Index, Shape::max_rank> x_stride{};
  for (int i = 0; i < rank; ++i) x_stride[static_cast<std::size_t>(i)] = x.shape().size(i + 1, rank);
  detail::PermuteRow<T> row{x.data(), nullptr, rank, {}, {}};
  Shape shape;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto from = static_cast<std::size_t>(order[i] = detail::axis_of("permute", x.shape(), order[i]));
    MOLE_CHECK_SHAPE(inverse[from] == -1, "permute: axis", order[i], "of", x.shape(), "is named twice");
    inverse[from] = static_cast<int>(i);
    shape.push_back(row.extent[i] = x.size(order[i]));
    row.stride[i] = x_stride[from];
  }
  const auto y = Tensor<T, B>::empty(shape);
  row.y = y.data();
  if (rank <= 1)
    B::copy(y.data(), x.data(), x.size());
  else if (y.size() > 0)
    B::for_rows(y.size() / shape[-1], shape[-1], row);
  return record({x}, y, [inverse](const auto& G) { return permute(G, inverse); });
}

/// Two axes exchanged, by default the last two.    Pullback of G: the same exchange.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> transpose(const Tensor<T, B>& x, int a = -2, int b = -1) {
  std::vector<int> order(static_cast<std::size_t>(x.rank()));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  auto place = [&](int axis) {
    return static_cast<std::size_t>(detail::axis_of("transpose", x.shape(), axis));
  };
  std::swap(order[place(a)], order[place(b)]);
  return permute(x, order);
}

/// y = x at [first, last) of one axis.    Pullback of G: dx = G there, 0 elsewhere.
/// Throws ShapeError for a range outside the axis.
template <class T, class B>
Tensor<T, B> slice(const Tensor<T, B>& x, int axis, Index first, Index last) {
  axis = detail::axis_of("slice", x.shape(), axis);
  MOLE_CHECK_SHAPE(first >= 0 && first <= last && last <= x.size(axis), "slice: [", first, ",", last,
                   ") is outside axis", axis, "of", x.shape());
  const Index inner = x.shape().size(axis + 1, x.rank()), outer = x.shape().size(0, axis);
  const Index n = (last - first) * inner, whole = x.size(axis) * inner;
  const auto y = Tensor<T, B>::empty(x.shape().with(axis, last - first));
  detail::copy_rows<T, B>(outer, n, x.data() + first * inner, whole, y.data(), n);
  return record({x}, y, [shape = x.shape(), at = first * inner, outer, n, whole](const auto& G) {
    const auto dx = Tensor<T, B>::zeros(shape);
    detail::copy_rows<T, B>(outer, n, G.data(), n, dx.data() + at, whole);
    return dx;
  });
}

/// The tensors one after another along an axis; their other extents are equal.
/// Pullback of G: each input gets its slice of G.    Throws ShapeError for an empty list or unequal extents.
template <class T, class B>
Tensor<T, B> concat(const std::vector<Tensor<T, B>>& parts, int axis) {
  MOLE_CHECK_SHAPE(!parts.empty(), "concat: nothing to join");
  const Shape& first = parts.front().shape();
  axis = detail::axis_of("concat", first, axis);
  Index total = 0;
  std::vector<Index> ends;
  for (const auto& part : parts) {
    MOLE_CHECK_SHAPE(part.rank() == first.rank() && part.shape().with(axis, 0) == first.with(axis, 0),
                     "concat along axis", axis, ": shapes", first, "and", part.shape(), "do not fit");
    ends.push_back(total += part.size(axis));
  }
  const Index inner = first.size(axis + 1, first.rank()), outer = first.size(0, axis);
  const auto y = Tensor<T, B>::empty(first.with(axis, total));
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Index n = parts[i].size(axis) * inner, at = ends[i] * inner - n;
    detail::copy_rows<T, B>(outer, n, parts[i].data(), n, y.data() + at, total * inner);
  }
  return record(parts, y, [axis, ends](const auto& G) {
    std::vector<Tensor<T, B>> gradients;
    Index begin = 0;
    for (const Index end : ends) {
      gradients.push_back(slice(G, axis, begin, end));
      begin = end;
    }
    return gradients;
  });
}

}  // namespace mole
