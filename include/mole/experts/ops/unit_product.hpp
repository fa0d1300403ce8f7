#pragma once
// What a gate of a rank reads of a mean input, scaled to unit length and multiplied by U, without the experts' outputs
// themselves. Of a thousand experts they are far wider than the input that they are made of.
//
//   v     [x A_1^T, .., x A_n^T], what the experts of n layers make of one input x [S, d]
//   P     sum of A_i^T U_i [d, m], so that x P = v U
//   K     sum of A_i^T A_i [d, d], so that x K x^T = |v|^2
//   z     x P / |v| = unit(v) U [S, m]

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <mole/autodiff/record.hpp>
#include <mole/core/gemm.hpp>
#include <mole/experts/ops/gate_softmax.hpp>

namespace mole {

namespace detail {

/// z, in place, from x P; keeps |v| and whether it is less than what is told from 0.
template <class T>
struct UnitProductRow {
  const T *x, *xK;
  T *z, *norm;
  Index d, m;
  T eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = x + row.index() * d, *const turned = xK + row.index() * d;
    T *const to = z + row.index() * m, *const length = norm + row.index();
    const T squares = row.sum(d, [=](Index j) { return from[j] * turned[j]; });
    const T own = row.sum(d, [=](Index j) { return from[j] * from[j]; });
    const T other = row.sum(d, [=](Index j) { return turned[j] * turned[j]; });
    // Below, the sum is rounding.
    constexpr T rounding = std::numeric_limits<T>::epsilon();
    const T least = rounding * std::sqrt(own) * std::sqrt(other);
    const bool told = squares > least && squares > eps * eps;
    const T size = told ? std::sqrt(squares) : least > eps * eps ? std::sqrt(least) : eps;
    // A negative length is one that stands for less.
    row.each(1, [=](Index) { *length = told ? size : -size; });
    row.each(m, [=](Index i) { to[i] = to[i] / size; });
  }
};

/// scaled = dz / |v|, along = <z, dz> / |v|^2, 0 where |v| was not told from 0.
template <class T>
struct UnitProductPullbackRow {
  const T *z, *G, *norm;
  T *scaled, *along;
  Index m;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const value = z + row.index() * m, *const slope = G + row.index() * m;
    T *const to = scaled + row.index() * m, *const to_along = along + row.index();
    const T length = norm[row.index()];
    const bool told = length > 0;
    const T size = told ? length : -length;
    const T dot = row.sum(m, [=](Index i) { return value[i] * slope[i]; });
    row.each(1, [=](Index) { *to_along = told ? dot / (size * size) : T(0); });
    row.each(m, [=](Index i) { to[i] = slope[i] / size; });
  }
};

/// Whether that is less work than v, which is S times the sum of the A_i; R is their rows.
inline bool unit_product_pays(Index S, Index d, Index R, Index m) {
  const auto product = [](Index a, Index b, Index c) {
    return static_cast<double>(a) * static_cast<double>(b) * static_cast<double>(c);
  };
  const double v = 2 * product(S, R, d) + 3 * product(S, R, m),
               here = 2 * product(R, d, m) + 2 * product(S, d, d + m);
  return 4 * here <= 3 * v;
}

/// A^T A.  A [R, d]
template <class T, class B>
void inner_products(const Tensor<T, B>& A, const Tensor<T, B>& K) {
  B::gemm(gemm_tn(A.size(1), A.size(1), A.size(0), 0), A.data(), A.data(), K.data());
}

}  // namespace detail

/// z = v U / max(|v|, 1e-12), v = [x A_1^T, .., x A_n^T].  x [S, d], A_i [R_i, d], K_i = A_i^T A_i [d, d],
/// U [sum of R_i, m], z [S, m]. A |v| so small that it is rounding is taken for what rounding makes of 0.
/// Pullback of G, s = G / |v|: dU_i = A_i x^T s, dx = s P^T - x K <z, G> / |v|^2, without the second term for such a |v|.
/// All but x and U is frozen.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> unit_product(const Tensor<T, B>& x, const std::vector<Tensor<T, B>>& A,
                          const std::vector<Tensor<T, B>>& K, const Tensor<T, B>& U) {
  MOLE_CHECK_SHAPE(x.rank() == 2 && U.rank() == 2 && !A.empty() && A.size() == K.size(),
                   "unit_product: expected x [S, d], U [R, m] and A, K of each layer, got", x.shape(),
                   U.shape(), A.size(), "and", K.size());
  const Index S = x.size(0), d = x.size(1), m = U.size(1);
  Index R = 0;
  for (std::size_t i = 0; i < A.size(); ++i) {
    MOLE_CHECK_SHAPE(A[i].rank() == 2 && A[i].size(1) == d && K[i].shape() == Shape({d, d}),
                     "unit_product: expected A [R,", d, "] and K", Shape({d, d}), "got", A[i].shape(), "and",
                     K[i].shape());
    R += A[i].size(0);
  }
  MOLE_CHECK_SHAPE(R == U.size(0), "unit_product: expected U of", R, "rows, got", U.shape());
  const auto P = Tensor<T, B>::empty({d, m}), xK = Tensor<T, B>::empty({S, d}),
             z = Tensor<T, B>::empty({S, m}), norm = Tensor<T, B>::empty({S});
  Index first = 0;
  for (std::size_t i = 0; i < A.size(); ++i) {
    const int add = i > 0 ? 1 : 0;
    B::gemm(detail::gemm_tn(d, m, A[i].size(0), add), A[i].data(), U.data() + first * m, P.data());
    B::gemm(detail::gemm_nn(S, d, d, add), x.data(), K[i].data(), xK.data());
    first += A[i].size(0);
  }
  B::gemm(detail::gemm_nn(S, m, d), x.data(), P.data(), z.data());
  B::for_rows(S, std::max(d, m),
              detail::UnitProductRow<T>{x.data(), xK.data(), z.data(), norm.data(), d, m,
                                        static_cast<T>(detail::gate_eps)});
  return record({x, U}, z, [=](const auto& value, const auto& G) {
    Tensor<T, B> dx, dU;
    const auto scaled = Tensor<T, B>::empty({S, m}), along = Tensor<T, B>::empty({S});
    B::for_rows(S, m,
                detail::UnitProductPullbackRow<T>{value.data(), G.data(), norm.data(), scaled.data(),
                                                  along.data(), m});
    if (U.requires_grad()) {
      const GradTarget target(U);
      dU = target.tensor;
      const auto turned = Tensor<T, B>::empty({d, m});
      B::gemm(detail::gemm_tn(d, m, S, 0), x.data(), scaled.data(), turned.data());
      Index from = 0;
      for (const auto& own : A) {
        B::gemm(detail::gemm_nn(own.size(0), m, d, target.beta), own.data(), turned.data(),
                dU.data() + from * m);
        from += own.size(0);
      }
    }
    if (x.requires_grad()) {
      const GradTarget target(x);
      dx = target.tensor;
      B::for_rows(S, d, detail::RemoveAlongRow<T>{xK.data(), along.data(), dx.data(), d, target.beta == 1});
      B::gemm(detail::gemm_nt(S, d, m, 1), scaled.data(), P.data(), dx.data());
    }
    return std::array{dx, dU};
  });
}

}  // namespace mole
