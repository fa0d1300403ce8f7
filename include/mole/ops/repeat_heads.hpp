#pragma once
// Grouped queries (Ainslie et al. 2023): several heads of queries read one head of keys and values.

#include <mole/autodiff/record.hpp>

namespace mole {

namespace detail {

/// One row a head of y.
template <class T>
struct RepeatHeadRow {
  const T* x;
  T* y;
  Index width, times;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() / times * width;
    T* const to = y + row.index() * width;
    row.each(width, [=](Index j) { to[j] = from[j]; });
  }
};

/// One row a head of x.
template <class T>
struct AddRepeatsRow {
  const T* g;
  T* dx;
  Index width, times;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = g + row.index() * times * width;
    T* const to = dx + row.index() * width;
    const Index n = width, count = times;
    row.each(n, [=](Index j) {
      Compute<T> total = 0;
      for (Index i = 0; i < count; ++i) total += Compute<T>(from[i * n + j]);
      to[j] = static_cast<T>(total);
    });
  }
};

}  // namespace detail

/// Head h of y is head h / times of x; once is x itself.      x [S, L, K D], y [S, L, K times D], D = width
/// Pullback of G: dx = the sum of G over the repeats.
/// Throws ShapeError unless x has whole heads of that width; ArgumentError for times below 1.
template <class T, class B>
Tensor<T, B> repeat_heads(const Tensor<T, B>& x, Index width, Index times) {
  MOLE_CHECK_ARG(times >= 1, "repeat_heads: expected at least one repeat, got", times);
  MOLE_CHECK_SHAPE(x.rank() == 3 && width > 0 && x.size(2) % width == 0,
                   "repeat_heads: expected x [S, L, K D] with D =", width, "got", x.shape());
  if (times == 1) return x;
  const Index heads = x.size() / width;
  const auto y = Tensor<T, B>::empty(x.shape().with(2, x.size(2) * times));
  B::for_rows(heads * times, width, detail::RepeatHeadRow<T>{x.data(), y.data(), width, times});
  return record({x}, y, [shape = x.shape(), heads, width, times](const auto& G) {
    const auto dx = Tensor<T, B>::empty(shape);
    B::for_rows(heads, width, detail::AddRepeatsRow<T>{G.data(), dx.data(), width, times});
    return dx;
  });
}

}  // namespace mole
