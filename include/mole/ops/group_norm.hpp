#pragma once
// Group norm of images with channels last.

#include <array>
#include <cmath>

#include <mole/core/kernels/group_norm.hpp>
#include <mole/ops/detail/broadcast.hpp>

namespace mole {

namespace detail {

/// One row a group of one image: its pixels, `width` channels of each.
template <class T>
struct GroupNormRow {
  using C = Compute<T>;
  const T *x, *w, *c;
  T* y;
  C *mean, *deviation;
  Index pixels, channels, groups, width;
  C eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index s = row.index() / groups, first = row.index() % groups * width, step = channels, m = width;
    const T *const from = x + s * pixels * step + first, *const weight = w + first, *const bias = c + first;
    T* const to = y + s * pixels * step + first;
    const C n = static_cast<C>(pixels * m);
    const C total = row.sum(pixels, [=](Index p) {
      C part = 0;
      for (Index k = 0; k < m; ++k) part += C(from[p * step + k]);
      return part;
    });
    const C mu = total / n;
    const C squares = row.sum(pixels, [=](Index p) {
      C part = 0;
      for (Index k = 0; k < m; ++k) part += (from[p * step + k] - mu) * (from[p * step + k] - mu);
      return part;
    });
    const C d = std::sqrt(squares / n + eps);
    C *const kept_mean = mean + row.index(), *const kept_deviation = deviation + row.index();
    row.each(1, [=](Index) {
      *kept_mean = mu;
      *kept_deviation = d;
    });
    row.each(pixels, [=](Index p) {
      for (Index k = 0; k < m; ++k) to[p * step + k] = (from[p * step + k] - mu) / d * weight[k] + bias[k];
    });
  }
};

/// dx = (w G - mean(w G) - z mean(w G z)) / deviation, added to what is there where `add` is set, and each
/// element's part G z of dw; z = (x - mean) / deviation.
template <class T>
struct GroupNormPullbackRow {
  using C = Compute<T>;
  const T *x, *w, *g;
  const C *mean, *deviation;
  T *dx, *dw;  ///< either may be null
  Index pixels, channels, groups, width;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index s = row.index() / groups, first = row.index() % groups * width, step = channels, m = width;
    const Index offset = s * pixels * step + first;
    const T *const from = x + offset, *const weight = w + first, *const G = g + offset;
    const C mu = mean[row.index()], d = deviation[row.index()], n = static_cast<C>(pixels * m);
    if (dw) {
      T* const part = dw + offset;
      row.each(pixels, [=](Index p) {
        for (Index k = 0; k < m; ++k) part[p * step + k] = G[p * step + k] * ((from[p * step + k] - mu) / d);
      });
    }
    if (!dx) return;
    T* const to = dx + offset;
    const C total = row.sum(pixels, [=](Index p) {
      C part = 0;
      for (Index k = 0; k < m; ++k) part += G[p * step + k] * weight[k];
      return part;
    });
    const C dot = row.sum(pixels, [=](Index p) {
      C part = 0;
      for (Index k = 0; k < m; ++k) part += G[p * step + k] * weight[k] * ((from[p * step + k] - mu) / d);
      return part;
    });
    const C level = total / n, along = dot / n;
    const bool more = add;
    row.each(pixels, [=](Index p) {
      for (Index k = 0; k < m; ++k) {
        const C z = (from[p * step + k] - mu) / d;
        const C value = (G[p * step + k] * weight[k] - level - z * along) / d;
        to[p * step + k] = more ? to[p * step + k] + value : value;
      }
    });
  }
};

}  // namespace detail

/// Each image's channels in groups of C / groups, every group brought to mean 0 and variance 1 over its
/// pixels and channels: y = w (x - mean) / sqrt(variance + eps) + c.    x, y [S, .., C]; w, c [C].
/// Pullback of G, z the standardised x, d the root: dx = (wG - mean(wG) - z mean(wG z)) / d, the means over a
/// group; dw = sum over all but the channels of G z, dc that of G.
/// Throws ShapeError when w or c do not fit, or the channels do not divide into the groups.
template <class T, class B>
Tensor<T, B> group_norm(const Tensor<T, B>& x, Index groups, const Tensor<T, B>& w, const Tensor<T, B>& c,
                        Compute<T> eps = Compute<T>(1e-5)) {
  MOLE_CHECK_SHAPE(x.rank() >= 2 && w.shape() == Shape{x.size(-1)} && c.shape() == w.shape(),
                   "group_norm: expected x [S, .., C], w [C], c [C], got", x.shape(), w.shape(), c.shape());
  const Index S = x.size(0), C = x.size(-1), P = x.shape().size(1, x.rank() - 1);
  MOLE_CHECK_SHAPE(groups >= 1 && C % groups == 0, "group_norm:", C, "channels do not divide into", groups,
                   "groups");
  const auto y = Tensor<T, B>::empty(x.shape());
  const auto mean = Tensor<Compute<T>, B>::empty({S, groups}),
             deviation = Tensor<Compute<T>, B>::empty({S, groups});
  const Index width = C / groups;
  if constexpr (detail::has_group_norm<T, B>)
    B::group_norm_forward(GroupNormForward<T>{x.data(), w.data(), c.data(), y.data(), mean.data(),
                                              deviation.data(), S, P, C, groups, eps});
  else
    B::for_rows(S * groups, P * width,
                detail::GroupNormRow<T>{x.data(), w.data(), c.data(), y.data(), mean.data(), deviation.data(),
                                        P, C, groups, width, eps});
  return record({x, w, c}, y, [=](const auto&, const auto& G) {
    std::array<Tensor<T, B>, 3> gradients;
    const bool to_x = x.requires_grad(), to_w = w.requires_grad();
    bool add = false;
    Tensor<T, B> parts;
    if (to_x) {
      const GradTarget target(x);
      gradients[0] = target.tensor;
      add = target.beta == 1;
    }
    if constexpr (detail::has_group_norm<T, B>) {
      const bool to_c = c.requires_grad();
      const auto dw = to_w ? Tensor<T, B>::empty({S, C}) : Tensor<T, B>(),
                 dc = to_c ? Tensor<T, B>::empty({S, C}) : Tensor<T, B>();
      B::group_norm_backward(GroupNormBackward<T>{
          x.data(), w.data(), G.data(), mean.data(), deviation.data(), to_x ? gradients[0].data() : nullptr,
          to_w ? dw.data() : nullptr, to_c ? dc.data() : nullptr, S, P, C, groups, add});
      if (to_w) gradients[1] = detail::sum_to(dw, w.shape());
      if (to_c) gradients[2] = detail::sum_to(dc, c.shape());
      return gradients;
    }
    if (to_w) parts = Tensor<T, B>::empty(x.shape());
    if (to_x || to_w)
      B::for_rows(S * groups, P * width,
                  detail::GroupNormPullbackRow<T>{x.data(), w.data(), G.data(), mean.data(), deviation.data(),
                                                  to_x ? gradients[0].data() : nullptr,
                                                  to_w ? parts.data() : nullptr, P, C, groups, width, add});
    if (to_w) gradients[1] = detail::sum_to(parts, w.shape());
    if (c.requires_grad()) gradients[2] = detail::sum_to(G, c.shape());
    return gradients;
  });
}

}  // namespace mole
