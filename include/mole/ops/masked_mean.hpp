#pragma once
// The mean over a sequence's tokens, padding left out.

#include <mole/autodiff/record.hpp>

namespace mole {

namespace detail {

/// y[s, j] = sum over the sequence's tokens of m x / sum of m, one row a sequence.
template <class T>
struct MaskedMeanRow {
  using C = Compute<T>;
  const T *x, *mask;
  T* y;
  Index tokens, n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = x + row.index() * tokens * n, *const m = mask + row.index() * tokens;
    T* const to = y + row.index() * n;
    const Index L = tokens, width = n;
    const C count = row.sum(L, [=](Index l) { return C(m[l]); });
    const C inverse = count > C(0) ? C(1) / count : C(0);
    row.each(width, [=](Index j) {
      C total = 0;
      for (Index l = 0; l < L; ++l) {
        const C weight = m[l] * inverse;
        if (weight != C(0)) total += weight * from[l * width + j];
      }
      to[j] = total;
    });
  }
};

/// dx[t, j] = m[t] G[s, j] / sum of m, one row a token.
template <class T>
struct MaskedMeanPullbackRow {
  using C = Compute<T>;
  const T *g, *mask;
  T* dx;
  Index tokens, n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index s = row.index() / tokens;
    const T* const m = mask + s * tokens;
    const C count = row.sum(tokens, [=](Index l) { return C(m[l]); });
    const C weight = count > C(0) ? mask[row.index()] / count : C(0);
    const T* const G = g + s * n;
    T* const to = dx + row.index() * n;
    row.each(n, [=](Index j) { to[j] = weight * G[j]; });
  }
};

}  // namespace detail

/// Mean over a sequence's real tokens: y[s] = sum over l of mask[s, l] x[s, l] / sum of mask[s], 0 without real
/// tokens.    x [S, L, n], mask [S, L] of 0 and 1, y [S, n].
/// Pullback of G: dx[s, l] = mask[s, l] G[s] / sum of mask[s].    Throws ShapeError.
/// Pooling "mean" of a gate's input.
template <class T, class B>
Tensor<T, B> masked_mean(const Tensor<T, B>& x, const Tensor<T, B>& mask) {
  MOLE_CHECK_SHAPE(x.rank() == 3 && mask.shape() == Shape({x.size(0), x.size(1)}),
                   "masked_mean: expected x [S, L, n] and mask [S, L], got", x.shape(), "and", mask.shape());
  const Index S = x.size(0), L = x.size(1), n = x.size(2);
  const auto y = Tensor<T, B>::empty({S, n});
  B::for_rows(S, L * n, detail::MaskedMeanRow<T>{x.data(), mask.data(), y.data(), L, n});
  return record({x}, y, [mask, S, L, n](const auto& G) {
    const auto dx = Tensor<T, B>::empty({S, L, n});
    B::for_rows(S * L, n, detail::MaskedMeanPullbackRow<T>{G.data(), mask.data(), dx.data(), L, n});
    return dx;
  });
}

}  // namespace mole
