#pragma once
// The k largest of a row, as a mask.

#include <mole/autodiff/tensor.hpp>

namespace mole {

namespace detail {

/// keep[j] = 1 for the k largest x of the row; of equal ones the first.
template <class T>
struct TopKRow {
  const T* x;
  T* keep;
  Index n, k;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    T* const to = keep + row.index() * n;
    const Index count = n, most = k;
    row.each(count, [=](Index j) {
      Index before = 0;
      for (Index i = 0; i < count; ++i) before += from[i] > from[j] || (from[i] == from[j] && i < j) ? 1 : 0;
      to[j] = before < most ? T(1) : T(0);
    });
  }
};

}  // namespace detail

/// 1 at the k largest elements of each row, else 0; ties go to the lower index.  x, y [.., n]. No gradient.
/// Throws ArgumentError unless 1 <= k <= n.
template <class T, class B>
Tensor<T, B> top_k_mask(const Tensor<T, B>& x, Index k) {
  MOLE_CHECK_SHAPE(x.rank() >= 1, "top_k_mask: expected [.., n], got", x.shape());
  const Index n = x.size(-1);
  MOLE_CHECK_ARG(k >= 1 && k <= n, "top_k_mask: expected k in [1,", n, "], got", k);
  const auto y = Tensor<T, B>::empty(x.shape());
  B::for_rows(x.shape().size(0, x.rank() - 1), n, detail::TopKRow<T>{x.data(), y.data(), n, k});
  return y;
}

}  // namespace mole
