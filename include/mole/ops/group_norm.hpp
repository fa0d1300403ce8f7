#pragma once
// Group norm of images with channels last.

#include <array>
#include <cmath>

#include <mole/core/kernels/group_norm.hpp>
#include <mole/ops/detail/broadcast.hpp>
#include <mole/ops/reduce.hpp>

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
    const C by = 1 / d;
    row.each(pixels, [=](Index p) {
      for (Index k = 0; k < m; ++k) to[p * step + k] = (from[p * step + k] - mu) * by * weight[k] + bias[k];
    });
  }
};

/// dx = (w G - mean(w G) - z mean(w G z)) / deviation, added to what is there where `add` is set; z = (x - mean) /
/// deviation. And the image's own part of dw and dc: over its pixels the sums of G z and of G.
template <class T>
struct GroupNormPullbackRow {
  using C = Compute<T>;
  const T *x, *w, *g;
  const C *mean, *deviation;
  T* dx;       ///< may be null
  C *dw, *dc;  ///< [S, C]; both or neither
  Index pixels, channels, groups, width;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index s = row.index() / groups, first = row.index() % groups * width, step = channels, m = width;
    const Index offset = s * pixels * step + first;
    const T *const from = x + offset, *const weight = w + first, *const G = g + offset;
    const C mu = mean[row.index()], by = 1 / deviation[row.index()], n = static_cast<C>(pixels * m);
    C total = 0, dot = 0;
    if (dw) {
      // The channels' sums give those of the group.
      for (Index k = 0; k < m; ++k) {
        const C level = row.sum(pixels, [=](Index p) { return C(G[p * step + k]); });
        const C along =
            row.sum(pixels, [=](Index p) { return G[p * step + k] * ((from[p * step + k] - mu) * by); });
        C *const to_w = dw + s * step + first + k, *const to_c = dc + s * step + first + k;
        row.each(1, [=](Index) {
          *to_w = along;
          *to_c = level;
        });
        total += weight[k] * level;
        dot += weight[k] * along;
      }
    } else {
      total = row.sum(pixels, [=](Index p) {
        C part = 0;
        for (Index k = 0; k < m; ++k) part += G[p * step + k] * weight[k];
        return part;
      });
      dot = row.sum(pixels, [=](Index p) {
        C part = 0;
        for (Index k = 0; k < m; ++k) part += G[p * step + k] * weight[k] * ((from[p * step + k] - mu) * by);
        return part;
      });
    }
    if (!dx) return;
    T* const to = dx + offset;
    const C level = total / n, along = dot / n;
    const bool more = add;
    row.each(pixels, [=](Index p) {
      for (Index k = 0; k < m; ++k) {
        const C z = (from[p * step + k] - mu) * by;
        const C value = (G[p * step + k] * weight[k] - level - z * along) * by;
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
  if (!detail::by_group_norm<B>(GroupNormForward<T>{x.data(), w.data(), c.data(), y.data(), mean.data(),
                                                    deviation.data(), S, P, C, groups, eps}))
    B::for_rows(S * groups, P * width,
                detail::GroupNormRow<T>{x.data(), w.data(), c.data(), y.data(), mean.data(), deviation.data(),
                                        P, C, groups, width, eps});
  return record({x, w, c}, y, [=](const auto& G) {
    std::array<Tensor<T, B>, 3> gradients;
    const bool to_x = x.requires_grad(), to_w = w.requires_grad(), to_c = c.requires_grad();
    bool add = false;
    if (to_x) {
      const GradTarget target(x);
      gradients[0] = target.tensor;
      add = target.beta == 1;
    }
    Tensor<Compute<T>, B> dw, dc;
    if (to_w || to_c) {
      dw = Tensor<Compute<T>, B>::empty({S, C});
      dc = Tensor<Compute<T>, B>::empty({S, C});
    }
    T* const to = to_x ? gradients[0].data() : nullptr;
    Compute<T>*const of_w = dw.defined() ? dw.data() : nullptr, *const of_c =
                                                                    dc.defined() ? dc.data() : nullptr;
    const bool done = detail::by_group_norm<B>(GroupNormBackward<T>{
        x.data(), w.data(), G.data(), mean.data(), deviation.data(), to, of_w, of_c, S, P, C, groups, add});
    if (!done && (to || of_w))
      B::for_rows(S * groups, P * width,
                  detail::GroupNormPullbackRow<T>{x.data(), w.data(), G.data(), mean.data(), deviation.data(),
                                                  to, of_w, of_c, P, C, groups, width, add});
    if (to_w) gradients[1] = detail::cast<T>(detail::sum_to(dw, w.shape()));
    if (to_c) gradients[2] = detail::cast<T>(detail::sum_to(dc, c.shape()));
    return gradients;
  });
}

}  // namespace mole
