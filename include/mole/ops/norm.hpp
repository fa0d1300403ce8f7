#pragma once
// Rows brought to a common size: unit length, root mean square (T5), layer norm; and the cosine of two rows.

#include <array>
#include <cmath>

#include <mole/core/kernels/rms_norm.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

namespace detail {

/// y = x / size, with size = max(|x|, eps).
template <class T>
struct UnitRow {
  using C = Compute<T>;
  const T* x;
  T* y;
  C* size;
  Index n;
  C eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    T* const to = y + row.index() * n;
    const C squares = row.sum(n, [=](Index j) { return from[j] * from[j]; });
    const C s = length_of(squares, eps);
    C* const kept = size + row.index();
    row.each(1, [=](Index) { *kept = s; });
    row.each(n, [=](Index j) { to[j] = from[j] / s; });
  }
};

/// dx = (G - y <y, G>) / size, without the second term on a row no longer than eps.
template <class T>
struct UnitPullbackRow {
  using C = Compute<T>;
  const T *y, *g;
  const C* size;
  T* dx;
  Index n;
  C eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const unit = y + row.index() * n, *const G = g + row.index() * n;
    T* const to = dx + row.index() * n;
    const C s = size[row.index()];
    const C dot = row.sum(n, [=](Index j) { return unit[j] * G[j]; });
    const C pull = s > eps ? dot : C(0);
    row.each(n, [=](Index j) { to[j] = (G[j] - unit[j] * pull) / s; });
  }
};

/// y = w x / size, with size = sqrt(mean(x^2) + eps).
template <class T>
struct RmsNormRow {
  using C = Compute<T>;
  const T *x, *w;
  T* y;
  C* size;
  Index n;
  C eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = x + row.index() * n, *const weight = w;
    T* const to = y + row.index() * n;
    const C squares = row.sum(n, [=](Index j) { return C(from[j]) * C(from[j]); });
    const C s = std::sqrt(squares / static_cast<C>(n) + eps);
    C* const kept = size + row.index();
    row.each(1, [=](Index) { *kept = s; });
    row.each(n, [=](Index j) { to[j] = from[j] / s * weight[j]; });
  }
};

/// dx = (w G - u mean(w G u)) / size, added to what is there where `add` is set, and each row's part G u of
/// dw; u = x / size.
template <class T>
struct RmsNormPullbackRow {
  using C = Compute<T>;
  const T *x, *w, *g;
  const C* size;
  T *dx, *dw;  ///< either may be null
  Index n;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = x + row.index() * n, *const weight = w, *const G = g + row.index() * n;
    const C s = size[row.index()];
    if (dw) {
      T* const part = dw + row.index() * n;
      row.each(n, [=](Index j) { part[j] = G[j] * (from[j] / s); });
    }
    if (!dx) return;
    T* const to = dx + row.index() * n;
    const C dot = row.sum(n, [=](Index j) { return from[j] / s * (G[j] * weight[j]); });
    const C pull = dot / static_cast<C>(n);
    if (add)
      row.each(n, [=](Index j) { to[j] = to[j] + (G[j] * weight[j] - from[j] / s * pull) / s; });
    else
      row.each(n, [=](Index j) { to[j] = (G[j] * weight[j] - from[j] / s * pull) / s; });
  }
};

/// y = (x - mean) / sqrt(variance + eps).
template <class T>
struct StandardizeRow {
  using C = Compute<T>;
  const T* x;
  T* y;
  C* deviation;
  Index n;
  C eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = x + row.index() * n;
    T* const to = y + row.index() * n;
    const C mean = row.sum(n, [=](Index j) { return C(from[j]); }) / static_cast<C>(n);
    const C variance =
        row.sum(n, [=](Index j) { return (from[j] - mean) * (from[j] - mean); }) / static_cast<C>(n);
    const C d = std::sqrt(variance + eps);
    C* const kept = deviation + row.index();
    row.each(1, [=](Index) { *kept = d; });
    row.each(n, [=](Index j) { to[j] = (from[j] - mean) / d; });
  }
};

/// dx = (G - mean(G) - y mean(G y)) / deviation.
template <class T>
struct StandardizePullbackRow {
  using C = Compute<T>;
  const T *y, *g;
  const C* deviation;
  T* dx;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const z = y + row.index() * n, *const G = g + row.index() * n;
    T* const to = dx + row.index() * n;
    const C mean = row.sum(n, [=](Index j) { return C(G[j]); }) / static_cast<C>(n);
    const C along = row.sum(n, [=](Index j) { return G[j] * z[j]; }) / static_cast<C>(n);
    const C d = deviation[row.index()];
    row.each(n, [=](Index j) { to[j] = (G[j] - mean - z[j] * along) / d; });
  }
};

template <class T, class B>
Tensor<T, B> standardize_rows(const Tensor<T, B>& x, Compute<T> eps) {
  const Index n = x.size(-1), rows = x.shape().size(0, x.rank() - 1);
  const auto y = Tensor<T, B>::empty(x.shape());
  const auto deviation = Tensor<Compute<T>, B>::empty({rows});
  B::for_rows(rows, n, StandardizeRow<T>{x.data(), y.data(), deviation.data(), n, eps});
  return record({x}, y, [deviation, n](const auto& value, const auto& G) {
    const auto dx = Tensor<T, B>::empty(value.shape());
    B::for_rows(deviation.size(), n,
                StandardizePullbackRow<T>{value.data(), G.data(), deviation.data(), dx.data(), n});
    return dx;
  });
}

}  // namespace detail

/// Rows scaled to unit length.  y = x / max(|x|, eps)      x, y [.., n]
/// Pullback of G: dx = (G - y <y, G>) / max(|x|, eps), without the second term where |x| <= eps.
/// Throws ShapeError for a scalar.    Gate input of eq. 9.
template <class T, class B>
Tensor<T, B> unit_rows(const Tensor<T, B>& x, Compute<T> eps = Compute<T>(1e-12)) {
  MOLE_CHECK_SHAPE(x.rank() >= 1, "unit_rows: expected [.., n], got", x.shape());
  const Index n = x.size(-1), rows = x.shape().size(0, x.rank() - 1);
  const auto y = Tensor<T, B>::empty(x.shape());
  const auto size = Tensor<Compute<T>, B>::empty({rows});
  B::for_rows(rows, n, detail::UnitRow<T>{x.data(), y.data(), size.data(), n, eps});
  return record({x}, y, [size, n, eps](const auto& value, const auto& G) {
    const auto dx = Tensor<T, B>::empty(value.shape());
    B::for_rows(size.size(), n,
                detail::UnitPullbackRow<T>{value.data(), G.data(), size.data(), dx.data(), n, eps});
    return dx;
  });
}

/// T5's norm: no mean, no bias.  y = w x / s, s = sqrt(mean(x^2) + eps)      x, y [.., n], w [n]
/// Pullback of G, u = x / s: dx = (w G - u mean(w G u)) / s, dw = sum over rows of G u.
/// Throws ShapeError when w does not fit.
template <class T, class B>
Tensor<T, B> rms_norm(const Tensor<T, B>& x, const Tensor<T, B>& w, Compute<T> eps = Compute<T>(1e-6)) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && w.shape() == Shape{x.size(-1)},
                   "rms_norm: expected x [.., n] and w [n], got", x.shape(), "and", w.shape());
  const Index n = x.size(-1), rows = x.shape().size(0, x.rank() - 1);
  const auto y = Tensor<T, B>::empty(x.shape());
  const auto size = Tensor<Compute<T>, B>::empty({rows});
  const RmsNormForward<T> by_kernel{x.data(),    nullptr, w.data(), nullptr, y.data(),
                                    size.data(), rows,    n,        eps};
  if (!detail::by_rms_norm<B>(by_kernel))
    B::for_rows(rows, n, detail::RmsNormRow<T>{x.data(), w.data(), y.data(), size.data(), n, eps});
  return record({x, w}, y, [x, w, size, n, rows](const auto& G) {
    std::array<Tensor<T, B>, 2> gradients;
    const bool to_x = x.requires_grad(), to_w = w.requires_grad();
    bool add = false;
    Tensor<T, B> parts;
    if (to_x) {
      const GradTarget target(x);
      gradients[0] = target.tensor;
      add = target.beta == 1;
    }
    if (to_w) parts = Tensor<T, B>::empty(x.shape());
    B::for_rows(rows, n,
                detail::RmsNormPullbackRow<T>{x.data(), w.data(), G.data(), size.data(),
                                              to_x ? gradients[0].data() : nullptr,
                                              to_w ? parts.data() : nullptr, n, add});
    if (to_w) gradients[1] = detail::sum_to(parts, w.shape());
    return gradients;
  });
}

/// The sum x + d and its norm, as a decoder's blocks have them: {x + d, rms_norm(x + d, w, eps)}, off the tape in one
/// kernel where the backend has one.    x, d [.., n], w [n].    Pullback: that of add and rms_norm. Throws ShapeError
/// when d or w does not fit.
template <class T, class B>
std::array<Tensor<T, B>, 2> add_rms_norm(const Tensor<T, B>& x, const Tensor<T, B>& d, const Tensor<T, B>& w,
                                         Compute<T> eps = Compute<T>(1e-6)) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && d.shape() == x.shape() && w.shape() == Shape{x.size(-1)},
                   "add_rms_norm: expected x and d [.., n] and w [n], got", x.shape(), d.shape(), "and",
                   w.shape());
  if constexpr (detail::has_rms_norm<T, B>)
    if (!detail::is_recorded<T, B>(OpInputs<T, B>{x, d, w})) {
      const Index n = x.size(-1), rows = x.shape().size(0, x.rank() - 1);
      const std::array both{Tensor<T, B>::empty(x.shape()), Tensor<T, B>::empty(x.shape())};
      const auto size = Tensor<Compute<T>, B>::empty({rows});
      if (B::rms_norm_forward(RmsNormForward<T>{x.data(), d.data(), w.data(), both[0].data(), both[1].data(),
                                                size.data(), rows, n, eps}))
        return both;
    }
  const auto sum = add(x, d);
  return {sum, rms_norm(sum, w, eps)};
}

/// y = w (x - mean) / sqrt(variance + eps) + c      x, y [.., n], w and c [n]
/// Pullback of G, z the standardised x, d the root: dx = (wG - mean(wG) - z mean(wG z)) / d, dw = sum over
/// rows of G z, dc = sum over rows of G.    Throws ShapeError when w or c do not fit.
template <class T, class B>
Tensor<T, B> layer_norm(const Tensor<T, B>& x, const Tensor<T, B>& w, const Tensor<T, B>& c,
                        Compute<T> eps = Compute<T>(1e-5)) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && w.shape() == Shape{x.size(-1)} && c.shape() == w.shape(),
                   "layer_norm: expected x [.., n], w [n], c [n], got", x.shape(), w.shape(), c.shape());
  return add(mul(detail::standardize_rows(x, eps), w), c);
}

/// y = <a, b> / (max(|a|, eps) max(|b|, eps)) over the last axis.  a, b [.., n] broadcastable, y [..].
/// Pullback: that of unit_rows of both and their product.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> cosine_similarity(const Tensor<T, B>& a, const Tensor<T, B>& b,
                               Compute<T> eps = Compute<T>(1e-12)) {
  return sum(mul(unit_rows(a, eps), unit_rows(b, eps)), {-1});
}

}  // namespace mole
