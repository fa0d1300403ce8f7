#pragma once
// Elementwise arithmetic of two tensors with broadcasting, and of a tensor with a number.

#include <array>

#include <mole/ops/detail/broadcast.hpp>

namespace mole {

/// y = a + b.  a, b broadcastable, y their common shape.
/// Pullback of G: da = G, db = G, each summed over its broadcast axes.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> add(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  auto y = detail::map_broadcast("add", a, b, functor::Add{});
  return record({a, b}, y, [a = a.shape(), b = b.shape()](const auto& G) {
    return std::array{detail::sum_to(G, a), detail::sum_to(G, b)};
  });
}

/// y = a - b.  a, b broadcastable, y their common shape.
/// Pullback of G: da = G, db = -G, each summed over its broadcast axes.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> sub(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  auto y = detail::map_broadcast("sub", a, b, functor::Subtract{});
  return record({a, b}, y, [a = a.shape(), b = b.shape(), need_b = b.requires_grad()](const auto& G) {
    return std::array{detail::sum_to(G, a), need_b ? detail::sum_to(scale(G, -1), b) : Tensor<T, B>()};
  });
}

/// y = a * b.  a, b broadcastable, y their common shape.
/// Pullback of G: da = G * b, db = G * a, each summed over its broadcast axes.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mul(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  auto y = detail::map_broadcast("mul", a, b, functor::Multiply{});
  const auto kept_a = b.requires_grad() ? a : a.place(), kept_b = a.requires_grad() ? b : b.place();
  return record({a, b}, y, [a = kept_a, b = kept_b](const auto& G) {
    auto side = [&](const auto& own, const auto& other) {
      if (!own.requires_grad()) return Tensor<T, B>();
      return detail::sum_to(detail::map_broadcast("mul", G, other, functor::Multiply{}), own.shape());
    };
    return std::array{side(a, b), side(b, a)};
  });
}

/// y = a / b.  a, b broadcastable, y their common shape.
/// Pullback of G: da = G / b, db = -G y / b, each summed over its broadcast axes.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> div(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  auto y = detail::map_broadcast("div", a, b, functor::Divide{});
  const auto kept_y = b.requires_grad() ? y.detach() : Tensor<T, B>();
  return record({a, b}, y, [a = a.place(), b, kept_y](const auto& G) {
    const auto per_b = detail::map_broadcast("div", G, b, functor::Divide{});
    Tensor<T, B> da, db;
    if (a.requires_grad()) da = detail::sum_to(per_b, a.shape());
    if (b.requires_grad()) db = detail::sum_to(scale(mul(per_b, kept_y), -1), b.shape());
    return std::array{da, db};
  });
}

/// y = s x.    Pullback of G: dx = s G.
template <class T, class B>
Tensor<T, B> scale(const Tensor<T, B>& x, Compute<T> s) {
  const auto y = Tensor<T, B>::empty(x.shape());
  transform<B>(x.size(), functor::Affine<Compute<T>>{s, 0}, y.data(), x.data());
  return record({x}, y, [s](const auto& G) { return scale(G, s); });
}

/// y = x + s.    Pullback of G: dx = G.
template <class T, class B>
Tensor<T, B> shift(const Tensor<T, B>& x, Compute<T> s) {
  const auto y = Tensor<T, B>::empty(x.shape());
  transform<B>(x.size(), functor::Affine<Compute<T>>{1, s}, y.data(), x.data());
  return record({x}, y, [](const auto& G) { return G; });
}

template <class T, class B>
Tensor<T, B> operator+(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  return add(a, b);
}
template <class T, class B>
Tensor<T, B> operator-(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  return sub(a, b);
}
template <class T, class B>
Tensor<T, B> operator*(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  return mul(a, b);
}
template <class T, class B>
Tensor<T, B> operator/(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  return div(a, b);
}
template <class T, class B>
Tensor<T, B> operator*(const Tensor<T, B>& x, Compute<T> s) {
  return scale(x, s);
}
template <class T, class B>
Tensor<T, B> operator*(Compute<T> s, const Tensor<T, B>& x) {
  return scale(x, s);
}
template <class T, class B>
Tensor<T, B> operator/(const Tensor<T, B>& x, Compute<T> s) {
  return scale(x, 1 / s);
}
template <class T, class B>
Tensor<T, B> operator+(const Tensor<T, B>& x, Compute<T> s) {
  return shift(x, s);
}
template <class T, class B>
Tensor<T, B> operator-(const Tensor<T, B>& x, Compute<T> s) {
  return shift(x, -s);
}
template <class T, class B>
Tensor<T, B> operator-(const Tensor<T, B>& x) {
  return scale(x, -1);
}

}  // namespace mole
