#pragma once
// Sums, means and maxima over axes.

#include <array>
#include <type_traits>
#include <vector>

#include <mole/ops/arithmetic.hpp>

namespace mole {

namespace detail {

/// x reduced over `axes` (all of them if empty), kept with extent 1.
template <class T, class B>
Tensor<T, B> reduce_axes(const char* op, Reduction reduction, const Tensor<T, B>& x,
                         const std::vector<int>& axes) {
  const int rank = x.rank();
  std::array<bool, Shape::max_rank> reduced{};
  reduced.fill(axes.empty());
  for (const int axis : axes) {
    MOLE_CHECK_SHAPE(axis >= -rank && axis < rank, op, ": axis", axis, "does not exist in", x.shape());
    reduced[static_cast<std::size_t>(x.shape().axis(axis))] = true;
  }
  Tensor<T, B> current = x.detach();
  Shape extents = x.shape();
  for (int last = rank; last > 0; --last) {
    if (!reduced[static_cast<std::size_t>(last - 1)]) continue;
    int first = last - 1;
    while (first > 0 && reduced[static_cast<std::size_t>(first - 1)]) --first;
    const Index outer = extents.size(0, first), n = extents.size(first, last),
                inner = extents.size(last, rank);
    MOLE_CHECK_SHAPE(reduction == Reduction::sum || n > 0, op, ": nothing to reduce in", x.shape());
    for (int i = first; i < last; ++i) extents = extents.with(i, 1);
    const auto next = Tensor<T, B>::empty(extents);
    B::reduce(reduction, outer, n, inner, current.data(), next.data());
    current = next;
    last = first + 1;
  }
  return Tensor<T, B>(extents, current.buffer());
}

/// The shape without the axes that a reduction kept with extent 1.
inline Shape without_axes(const Shape& shape, const std::vector<int>& axes) {
  std::array<bool, Shape::max_rank> gone{};
  gone.fill(axes.empty());
  for (const int axis : axes) gone[static_cast<std::size_t>(shape.axis(axis))] = true;
  Shape result;
  for (int i = 0; i < shape.rank(); ++i)
    if (!gone[static_cast<std::size_t>(i)]) result.push_back(shape[i]);
  return result;
}

/// x in another scalar type, off the tape; x itself where it is the same.
template <class U, class T, class B>
Tensor<U, B> cast(const Tensor<T, B>& x) {
  if constexpr (std::is_same_v<U, T>) {
    return x.detach();
  } else {
    const auto y = Tensor<U, B>::empty(x.shape());
    transform<B>(x.size(), functor::Identity{}, y.data(), x.data());
    return y;
  }
}

/// 1 where an element is its slice's maximum.
struct IsMax {
  template <class T>
  MOLE_HD T operator()(T x, T best) const {
    return x == best ? T(1) : T(0);
  }
};

}  // namespace detail

/// y = sum of x over `axes` (all of them if empty).  x any shape; y without those axes, or with extent 1
/// where keep is set.    Pullback of G: dx = G, repeated along the axes.    Throws ShapeError for a bad axis.
template <class T, class B>
Tensor<T, B> sum(const Tensor<T, B>& x, const std::vector<int>& axes = {}, bool keep = false) {
  const auto kept = detail::reduce_axes("sum", Reduction::sum, x, axes);
  const Tensor<T, B> y(keep ? kept.shape() : detail::without_axes(x.shape(), axes), kept.buffer());
  return record({x}, y, [shape = x.shape(), kept = kept.shape()](const auto& G) {
    return detail::broadcast_to(Tensor<T, B>(kept, G.buffer()), shape);
  });
}

/// y = mean of x over `axes` (all of them if empty).  Shapes as in sum.
/// Pullback of G: dx = G / n, repeated along the axes.    Throws ShapeError for a bad axis or no element.
template <class T, class B>
Tensor<T, B> mean(const Tensor<T, B>& x, const std::vector<int>& axes = {}, bool keep = false) {
  using C = Compute<T>;
  // In C, rounded once: a sum can be beyond half's range where the mean is not.
  const auto total = detail::reduce_axes("mean", Reduction::sum, detail::cast<C>(x), axes);
  MOLE_CHECK_SHAPE(x.size() > 0, "mean: no elements in", x.shape());
  const C share = static_cast<C>(total.size()) / static_cast<C>(x.size());
  const Tensor<T, B> y(keep ? total.shape() : detail::without_axes(x.shape(), axes),
                       detail::cast<T>(scale(total, share)).buffer());
  return record({x}, y, [shape = x.shape(), kept = total.shape(), share](const auto& G) {
    return detail::broadcast_to(Tensor<T, B>(kept, scale(G, share).buffer()), shape);
  });
}

/// y = largest x over `axes` (all of them if empty); NaN if one is NaN.  Shapes as in sum.
/// Pullback of G: dx = G at the largest element, shared equally among ties.
/// Throws ShapeError for a bad axis or an empty one.
template <class T, class B>
Tensor<T, B> max(const Tensor<T, B>& x, const std::vector<int>& axes = {}, bool keep = false) {
  const auto kept = detail::reduce_axes("max", Reduction::max, x, axes);
  const Tensor<T, B> y(keep ? kept.shape() : detail::without_axes(x.shape(), axes), kept.buffer());
  return record({x}, y, [x = x.detach(), kept = kept.shape(), axes](const auto& value, const auto& G) {
    const auto hits = detail::map_broadcast("max", x, Tensor<T, B>(kept, value.buffer()), detail::IsMax{});
    const auto count = detail::reduce_axes("max", Reduction::sum, hits, axes);
    return mul(hits, div(Tensor<T, B>(kept, G.buffer()), count));
  });
}

}  // namespace mole
