#pragma once
// The k largest of a row, as a mask or as indices.

#include <mole/autodiff/tensor.hpp>
#include <mole/core/scalar.hpp>

namespace mole {

namespace detail {

/// Whether element i of value a comes before element j of value b: the larger first, of equal ones that of
/// the lower index. NaN is above all numbers, so that any row has one order.
template <class C>
MOLE_HD bool comes_before(C a, Index i, C b, Index j) {
  const bool a_wild = is_nan(a), b_wild = is_nan(b);
  if (a_wild || b_wild) return a_wild && (!b_wild || i < j);
  return a > b || (a == b && i < j);
}

/// For the k largest x of the row: keep[j] = 1, else 0; index[place] = j in their order. Either may be null.
template <class T>
struct TopKRow {
  const T* x;
  T* keep;
  Index* index;
  Index n, k;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    using C = Compute<T>;
    const T* const from = x + row.index() * n;
    T* const mask = keep ? keep + row.index() * n : nullptr;
    Index* const list = index ? index + row.index() * k : nullptr;
    const Index count = n, most = k;
    // Where k is small a row is read some times and not once an element.
    const C least = 4 * k <= n ? least_chosen(row, from) : minus_infinity<C>();
    row.each(count, [=](Index j) {
      Index before = 0;
      if (key(from[j]) < least)
        before = most;
      else
        for (Index i = 0; i < count && before < most; ++i)
          before += comes_before<C>(from[i], i, from[j], j) ? 1 : 0;
      if (mask) mask[j] = before < most ? T(1) : T(0);
      if (list && before < most) list[before] = j;
    });
  }

 private:
  /// NaN is above all numbers.
  MOLE_HD static Compute<T> key(T value) {
    const Compute<T> wide = value;
    return is_nan(wide) ? -minus_infinity<Compute<T>>() : wide;
  }
  /// The k-th largest of the keys that differ: not more than the least of the k largest.
  template <class Row>
  MOLE_HD Compute<T> least_chosen(const Row& row, const T* from) const {
    using C = Compute<T>;
    const C lowest = minus_infinity<C>();
    C found = -lowest;
    for (Index i = 0; i < k && found != lowest; ++i) {
      const bool first = i == 0;
      const C last = found;
      found = row.max(n, [=](Index j) {
        const C value = key(from[j]);
        return first || value < last ? value : lowest;
      });
    }
    return found;
  }
};

/// Throws ShapeError for a scalar, ArgumentError unless 1 <= k <= n.
inline void check_top_k(const char* op, const Shape& shape, Index k) {
  MOLE_CHECK_SHAPE(shape.rank() >= 1, op, ": expected [.., n], got", shape);
  MOLE_CHECK_ARG(k >= 1 && k <= shape[-1], op, ": expected k in [1,", shape[-1], "], got", k);
}

}  // namespace detail

/// 1 at the k largest elements of each row, else 0; ties go to the lower index.  x, y [.., n]. No gradient.
/// Throws ArgumentError unless 1 <= k <= n.
template <class T, class B>
Tensor<T, B> top_k_mask(const Tensor<T, B>& x, Index k) {
  detail::check_top_k("top_k_mask", x.shape(), k);
  const Index n = x.size(-1);
  const auto y = Tensor<T, B>::empty(x.shape());
  B::for_rows(x.shape().size(0, x.rank() - 1), n, detail::TopKRow<T>{x.data(), y.data(), nullptr, n, k});
  return y;
}

/// Where the k largest elements of each row are, the largest first; ties go to the lower index.  x [.., n],
/// y [.., k] in [0, n). They stay on the device. No gradient.    Throws ArgumentError unless 1 <= k <= n.
template <class T, class B>
Tensor<Index, B> top_k_indices(const Tensor<T, B>& x, Index k) {
  detail::check_top_k("top_k_indices", x.shape(), k);
  const Index n = x.size(-1);
  const auto y = Tensor<Index, B>::empty(x.shape().with(-1, k));
  B::for_rows(x.shape().size(0, x.rank() - 1), n, detail::TopKRow<T>{x.data(), nullptr, y.data(), n, k});
  y.set_index_bound(n);
  return y;
}

}  // namespace mole
