#pragma once
// The gated unit of Stable Diffusion's feed-forward layers.

#include <mole/ops/activation.hpp>

namespace mole {

namespace detail {

/// y = a gelu(b), the row of x being [a | b].
template <class T>
struct GegluRow {
  using C = Compute<T>;
  const T* x;
  T* y;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const a = x + 2 * row.index() * n, *const b = a + n;
    T* const to = y + row.index() * n;
    row.each(n, [=](Index j) { to[j] = C(a[j]) * functor::Gelu{}(C(b[j])); });
  }
};

/// da = G gelu(b), db = G a gelu'(b).
template <class T>
struct GegluPullbackRow {
  using C = Compute<T>;
  const T *x, *g;
  T* dx;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const a = x + 2 * row.index() * n, *const b = a + n, *const G = g + row.index() * n;
    T *const da = dx + 2 * row.index() * n, *const db = da + n;
    row.each(n, [=](Index j) {
      const C value = b[j], gelu = functor::Gelu{}(value);
      da[j] = C(G[j]) * gelu;
      db[j] = C(G[j]) * C(a[j]) * functor::Gelu{}.slope(value, gelu);
    });
  }
};

}  // namespace detail

/// y = a gelu(b) with x = [a | b], the exact GELU; the gate is the second half, as diffusers has it.
/// x [.., 2 n], y [.., n].    Pullback of G: da = G gelu(b), db = G a gelu'(b).
/// Throws ShapeError for a last axis that is odd.
template <class T, class B>
Tensor<T, B> geglu(const Tensor<T, B>& x) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && x.size(-1) % 2 == 0, "geglu: expected [.., 2 n], got", x.shape());
  const Index n = x.size(-1) / 2, rows = x.shape().size(0, x.rank() - 1);
  const auto y = Tensor<T, B>::empty(x.shape().with(-1, n));
  B::for_rows(rows, n, detail::GegluRow<T>{x.data(), y.data(), n});
  return record({x}, y, [x = x.detach(), n, rows](const auto& G) {
    const auto dx = Tensor<T, B>::empty(x.shape());
    B::for_rows(rows, n, detail::GegluPullbackRow<T>{x.data(), G.data(), dx.data(), n});
    return dx;
  });
}

}  // namespace mole
