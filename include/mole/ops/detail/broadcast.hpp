#pragma once
// Binary maps over two tensors of broadcastable shapes, and the sum that undoes a broadcast.

#include <algorithm>
#include <array>

#include <mole/autodiff/record.hpp>

namespace mole::detail {

/// The common shape of two operands: extents are equal or 1, missing leading axes count as 1 (NumPy's
/// rule). Throws ShapeError naming the op.
inline Shape broadcast_shape(const char* op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const Index ea = ia < 0 ? 1 : a[ia], eb = ib < 0 ? 1 : b[ib];
    MOLE_CHECK_SHAPE(ea == eb || ea == 1 || eb == 1, op, ": shapes", a, "and", b, "do not broadcast");
    result.push_back(ea == 1 ? eb : ea);
  }
  return result;
}

/// Two operands walked together: neighbouring axes that both operands step through alike are one axis.
struct BroadcastLayout {
  int rank = 0;
  std::array<Index, Shape::max_rank> extent{}, a_stride{}, b_stride{};

  BroadcastLayout(const Shape& a, const Shape& b, const Shape& y) {
    Index a_step = 1, b_step = 1;
    for (int i = y.rank() - 1; i >= 0; --i) {
      const int ia = i - (y.rank() - a.rank()), ib = i - (y.rank() - b.rank());
      const Index n = y[i], na = ia < 0 ? 1 : a[ia], nb = ib < 0 ? 1 : b[ib];
      if (n == 1) continue;
      const Index sa = na == 1 ? 0 : a_step, sb = nb == 1 ? 0 : b_step;
      a_step *= na;
      b_step *= nb;
      const auto last = static_cast<std::size_t>(rank - 1);
      if (rank > 0 && sa == a_stride[last] * extent[last] && sb == b_stride[last] * extent[last]) {
        extent[last] *= n;
        continue;
      }
      const auto next = static_cast<std::size_t>(rank++);
      extent[next] = n;
      a_stride[next] = sa;
      b_stride[next] = sb;
    }
  }

  /// Makes rows of 4096 or less of a single long row, where a power of two from 256 on divides it: a row is the work of
  /// one thread, or of one block of them.
  void cut_single_row() {
    Index part = 4096;
    if (rank != 1 || extent[0] <= part) return;
    while (part >= 256 && extent[0] % part != 0) part /= 2;
    if (part < 256) return;
    rank = 2;
    extent[1] = extent[0] / part;
    a_stride[1] = a_stride[0] * part;
    b_stride[1] = b_stride[0] * part;
    extent[0] = part;
  }

  /// The innermost axis is axis 0 here.
  MOLE_HD Index inner() const { return rank == 0 ? 1 : extent[0]; }

  /// Offsets of the operands at the start of row r of the remaining axes.
  MOLE_HD void offsets(Index r, Index& a, Index& b) const {
    a = b = 0;
    for (int i = 1; i < rank; ++i) {
      const auto axis = static_cast<std::size_t>(i);
      const Index at = r % extent[axis];
      r /= extent[axis];
      a += at * a_stride[axis];
      b += at * b_stride[axis];
    }
  }
};

/// One row of the innermost axis, each operand either stepping along or standing still.
template <class F, class T>
struct BroadcastRow {
  using C = Compute<T>;
  F f;
  BroadcastLayout layout;
  T* y;
  const T *a, *b;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index n = layout.inner();
    Index a_offset = 0, b_offset = 0;
    layout.offsets(row.index(), a_offset, b_offset);
    T* const to = y + row.index() * n;
    const T *const from_a = a + a_offset, *const from_b = b + b_offset;
    const F& g = f;
    if (layout.a_stride[0] != 0 && layout.b_stride[0] != 0) {
      row.each(n, [=](Index j) { to[j] = g(C(from_a[j]), C(from_b[j])); });
    } else if (layout.a_stride[0] != 0) {
      const C still = *from_b;
      row.each(n, [=](Index j) { to[j] = g(C(from_a[j]), still); });
    } else {
      const C still = *from_a;
      row.each(n, [=](Index j) { to[j] = g(still, C(from_b[j])); });
    }
  }
};

/// y = f(a, b) elementwise with broadcasting.
template <class T, class B, class F>
Tensor<T, B> map_broadcast(const char* op, const Tensor<T, B>& a, const Tensor<T, B>& b, F f) {
  const auto y = Tensor<T, B>::empty(broadcast_shape(op, a.shape(), b.shape()));
  if (y.size() == 0) return y;
  if (a.shape() == b.shape()) {
    transform<B>(y.size(), f, y.data(), a.data(), b.data());
    return y;
  }
  BroadcastLayout layout(a.shape(), b.shape(), y.shape());
  layout.cut_single_row();
  B::for_rows(y.size() / layout.inner(), layout.inner(),
              BroadcastRow<F, T>{f, layout, y.data(), a.data(), b.data()});
  return y;
}

/// y[r, :] = row for each r.
template <class T>
struct RepeatRow {
  T* y;
  const T* from;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    T* const to = y + row.index() * n;
    const T* const source = from;
    row.each(n, [=](Index j) { to[j] = source[j]; });
  }
};

/// One row of a tensor that is repeated along some axes.
template <class T>
struct BroadcastCopyRow {
  BroadcastLayout layout;
  T* y;
  const T* x;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index n = layout.inner();
    Index offset = 0, at = 0;
    layout.offsets(row.index(), offset, at);
    T* const to = y + at;
    const T* const from = x + offset;
    if (layout.a_stride[0] != 0) {
      row.each(n, [=](Index j) { to[j] = from[j]; });
    } else {
      const T still = *from;
      row.each(n, [=](Index j) { to[j] = still; });
    }
  }
};

/// x repeated along the axes in which `shape`, to which it broadcasts, is longer.
template <class T, class B>
Tensor<T, B> broadcast_to(const Tensor<T, B>& x, const Shape& shape) {
  const auto y = Tensor<T, B>::empty(shape);
  if (y.size() == 0) return y;
  const BroadcastLayout layout(x.shape(), shape, shape);
  B::for_rows(y.size() / layout.inner(), layout.inner(), BroadcastCopyRow<T>{layout, y.data(), x.data()});
  return y;
}

/// G summed over the axes along which `shape` was broadcast to G's shape.
template <class T, class B>
Tensor<T, B> sum_to(const Tensor<T, B>& G, const Shape& shape) {
  if (G.shape() == shape) return G;
  const int rank = G.rank(), missing = rank - shape.rank();
  Tensor<T, B> current = G;
  auto summed = [&](int i) { return i < missing || (shape[i - missing] == 1 && G.size(i) != 1); };
  // From the back: runs of neighbouring summed axes are reduced at once, the kept ones around them stay.
  Shape extents = G.shape();
  for (int last = rank; last > 0;) {
    if (!summed(last - 1)) {
      --last;
      continue;
    }
    int first = last - 1;
    while (first > 0 && summed(first - 1)) --first;
    const Index outer = extents.size(0, first), n = extents.size(first, last),
                inner = extents.size(last, rank);
    for (int i = first; i < last; ++i) extents = extents.with(i, 1);
    const auto next = Tensor<T, B>::empty(extents);
    B::reduce(Reduction::sum, outer, n, inner, current.data(), next.data());
    current = next;
    last = first;
  }
  return Tensor<T, B>(shape, current.buffer());
}

}  // namespace mole::detail
