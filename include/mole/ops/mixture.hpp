#pragma once
// The rank-space path of MoLE: what a gate reads, its logits, and the mixture itself, all on
// h = x A'^T of width R = sum of ranks; nothing of width N * d_out exists.
//
//   E_i = h_i Q_i^T (canonical experts: Q_i has orthonormal columns)   eq. 8
//   v     the gate input, from the h of the scope's entry group         eq. 9
//   F     the gate's weight [features, N], F = Q^T e                     eq. 10
//   g     the gate, one weight an expert                                 eq. 11
//   y = x W^T + c + sum_i g_i E_i                                        eq. 12-13

#include <array>
#include <cmath>

#include <mole/ops/matmul.hpp>
#include <mole/ops/norm.hpp>

namespace mole {

namespace detail {

/// y[t, j] = sum over the sequence's tokens of m x / sum of m, one row a sequence.
template <class T>
struct MaskedMeanRow {
  const T *x, *mask;
  T* y;
  Index tokens, n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = x + row.index() * tokens * n, *const m = mask + row.index() * tokens;
    T* const to = y + row.index() * n;
    const Index L = tokens, width = n;
    const T count = row.sum(L, [=](Index l) { return m[l]; });
    const T inverse = count > T(0) ? T(1) / count : T(0);
    row.each(width, [=](Index j) { to[j] = T(0); });
    for (Index l = 0; l < L; ++l) {
      const T weight = m[l] * inverse;
      if (weight != T(0)) row.each(width, [=](Index j) { to[j] += weight * from[l * width + j]; });
    }
  }
};

/// dx[t, j] = m[t] G[s, j] / sum of m, one row a token.
template <class T>
struct MaskedMeanPullbackRow {
  const T *g, *mask;
  T* dx;
  Index tokens, n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index s = row.index() / tokens;
    const T* const m = mask + s * tokens;
    const T count = row.sum(tokens, [=](Index l) { return m[l]; });
    const T weight = count > T(0) ? mask[row.index()] / count : T(0);
    const T* const G = g + s * n;
    T* const to = dx + row.index() * n;
    row.each(n, [=](Index j) { to[j] = weight * G[j]; });
  }
};

/// In place: z = z / max(|v|, eps), the logits from the unnormalised product; keeps the norm.
template <class T>
struct GateLogitsRow {
  const T* v;
  T *z, *norm;
  Index features, experts;
  T eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = v + row.index() * features;
    T *const to = z + row.index() * experts, *const kept = norm + row.index();
    const T size = larger(std::sqrt(row.sum(features, [=](Index j) { return from[j] * from[j]; })), eps);
    row.each(1, [=](Index) { *kept = size; });
    row.each(experts, [=](Index i) { to[i] /= size; });
  }
};

/// scaled = G / |v|, and along = <y, G> / |v|^2 (0 where |v| <= eps).
template <class T>
struct GateLogitsPullbackRow {
  const T *y, *g, *norm;
  T *scaled, *along;
  Index experts;
  T eps;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const logits = y + row.index() * experts, *const G = g + row.index() * experts;
    T *const to = scaled + row.index() * experts, *const kept = along + row.index();
    const T size = norm[row.index()];
    const T dot = row.sum(experts, [=](Index i) { return logits[i] * G[i]; });
    const T value = size > eps ? dot / (size * size) : T(0);
    row.each(1, [=](Index) { *kept = value; });
    row.each(experts, [=](Index i) { to[i] = G[i] / size; });
  }
};

/// dv = (beta dv) - along v.
template <class T>
struct RemoveAlongRow {
  const T *v, *along;
  T* dv;
  Index features;
  T beta;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from = v + row.index() * features;
    T* const to = dv + row.index() * features;
    const T a = along[row.index()], b = beta;
    row.each(features, [=](Index j) { to[j] = (b == T(0) ? T(0) : to[j]) - a * from[j]; });
  }
};

/// p = h * g, each rank column by its expert's gate. tokens_per_gate is L for a sequence gate, 1 for tokens.
template <class T>
struct GateRankRow {
  const T *h, *g;
  const Index* expert;
  T* p;
  Index rank, experts, tokens_per_gate;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const from = h + row.index() * rank, *const gate = g + row.index() / tokens_per_gate * experts;
    const Index* const of = expert;
    T* const to = p + row.index() * rank;
    row.each(rank, [=](Index j) { to[j] = from[j] * gate[of[j]]; });
  }
};

/// From dp: dg[t, i] = sum over the columns j of expert i of dp h, and dh = g dp (added where add is set).
template <class T>
struct GateRankPullbackRow {
  const T *h, *g, *dp;
  const Index* expert;
  T *dg, *dh;  ///< either may be null
  Index rank, experts, tokens_per_gate;
  bool add;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const H = h + row.index() * rank, *const D = dp + row.index() * rank;
    const T* const gate = g + row.index() / tokens_per_gate * experts;
    const Index* const of = expert;
    const Index R = rank;
    if (dg) {
      T* const sums = dg + row.index() * experts;
      row.each(experts, [=](Index i) { sums[i] = T(0); });
      // Columns are sorted by expert: each run is one sum.
      for (Index first = 0; first < R;) {
        Index last = first + 1;
        while (last < R && of[last] == of[first]) ++last;
        const T dot = row.sum(last - first, [=](Index j) { return D[first + j] * H[first + j]; });
        T* const to = sums + of[first];
        row.each(1, [=](Index) { *to = dot; });
        first = last;
      }
    }
    if (dh) {
      T* const to = dh + row.index() * rank;
      if (add)
        row.each(R, [=](Index j) { to[j] += D[j] * gate[of[j]]; });
      else
        row.each(R, [=](Index j) { to[j] = D[j] * gate[of[j]]; });
    }
  }
};

}  // namespace detail

/// Mean over a sequence's real tokens.    x [S, L, n], mask [S, L] of 0 and 1, y [S, n]; 0 without real
/// tokens. Pullback of G: dx[s, l] = mask[s, l] G[s] / sum of mask[s].    Throws ShapeError.    Pooling
/// "mean".
template <class T, class B>
Tensor<T, B> masked_mean(const Tensor<T, B>& x, const Tensor<T, B>& mask) {
  MOLE_CHECK_SHAPE(x.rank() == 3 && mask.shape() == Shape({x.size(0), x.size(1)}),
                   "masked_mean: expected x [S, L, n] and mask [S, L], got", x.shape(), "and", mask.shape());
  const Index S = x.size(0), L = x.size(1), n = x.size(2);
  const auto y = Tensor<T, B>::empty({S, n});
  B::for_rows(S, L * n, detail::MaskedMeanRow<T>{x.data(), mask.data(), y.data(), L, n});
  return record({x}, y, [mask, S, L, n](const auto&, const auto& G) {
    const auto dx = Tensor<T, B>::empty({S, L, n});
    B::for_rows(S * L, n, detail::MaskedMeanPullbackRow<T>{G.data(), mask.data(), dx.data(), L, n});
    return dx;
  });
}

/// Logits of a gate (eq. 9-10): y = v F / max(|v|, eps), rows of v.  v [.., features], F [features, N], y
/// [.., N] The unit vector is never stored. Pullback of G: dF = v^T (G / |v|), dv = (G F^T - v <y, G> / |v|)
/// / |v|, without the second term where |v| <= eps.    Throws ShapeError when features differ.
template <class T, class B>
Tensor<T, B> gate_logits(const Tensor<T, B>& v, const Tensor<T, B>& F,
                         std::type_identity_t<T> eps = T(1e-12)) {
  MOLE_CHECK_SHAPE(v.rank() >= 1 && F.rank() == 2 && v.size(-1) == F.size(0),
                   "gate_logits: expected v [.., features] and F [features, N], got", v.shape(), "and",
                   F.shape());
  const Index features = F.size(0), N = F.size(1), rows = v.shape().size(0, v.rank() - 1);
  const auto y = Tensor<T, B>::empty(v.shape().with(-1, N)), norm = Tensor<T, B>::empty({rows});
  B::gemm(Gemm{.m = rows, .n = N, .k = features, .lda = features, .ldb = N, .ldc = N}, v.data(), F.data(),
          y.data());
  B::for_rows(rows, features, detail::GateLogitsRow<T>{v.data(), y.data(), norm.data(), features, N, eps});
  return record({v, F}, y, [v, F, norm, eps, rows, features, N](const auto& y, const auto& G) {
    const auto scaled = Tensor<T, B>::empty(y.shape()), along = Tensor<T, B>::empty({rows});
    B::for_rows(rows, N,
                detail::GateLogitsPullbackRow<T>{y.data(), G.data(), norm.data(), scaled.data(), along.data(),
                                                 N, eps});
    Tensor<T, B> dv, dF;
    if (v.requires_grad()) {
      const GradTarget target(v);
      dv = target.tensor;
      B::for_rows(rows, features,
                  detail::RemoveAlongRow<T>{v.data(), along.data(), dv.data(), features,
                                            static_cast<T>(target.beta)});
      B::gemm(detail::gemm_nt(rows, features, N, 1), scaled.data(), F.data(), dv.data());
    }
    if (F.requires_grad()) {
      const GradTarget target(F);
      dF = target.tensor;
      B::gemm(detail::gemm_tn(features, N, rows, target.beta), v.data(), scaled.data(), dF.data());
    }
    return std::array{dv, dF};
  });
}

/// The mixture (eq. 12-13) on canonical experts: y = x W^T + c + (g * h) Q^T.
/// x [S, L, d_in]; W [d_out, d_in]; c [d_out] or undefined; h [S, L, R] = x A'^T; g [S, N] for a sequence
/// gate or [S, L, N] for a token gate; Q [d_out, R]; expert [R], ascending: the gate's column for each rank;
/// y [S, L, d_out]. Pullback of G, D = G Q: dx = G W, dh = g * D, dg_i = sum over expert i's columns (and a
/// sequence gate's tokens) of D * h. W, c and Q are frozen.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mixture(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                     const Tensor<T, B>& h, const Tensor<T, B>& g, const Tensor<T, B>& Q,
                     const Tensor<Index, B>& expert) {
  MOLE_CHECK_SHAPE(x.rank() == 3 && W.rank() == 2 && x.size(2) == W.size(1),
                   "mixture: expected x [S, L, d_in] and W [d_out, d_in], got", x.shape(), "and", W.shape());
  const Index S = x.size(0), L = x.size(1), d_in = W.size(1), d_out = W.size(0), R = Q.size(-1),
              N = g.size(-1);
  const bool per_token = g.rank() == 3;
  MOLE_CHECK_SHAPE(
      Q.shape() == Shape({d_out, R}) && h.shape() == Shape({S, L, R}) && expert.shape() == Shape({R}),
      "mixture: expected Q [d_out, R], h [S, L, R], expert [R], got", Q.shape(), h.shape(), expert.shape());
  MOLE_CHECK_SHAPE(g.shape() == (per_token ? Shape({S, L, N}) : Shape({S, N})),
                   "mixture: expected a gate [S, N] or "
                   "[S, L, N] for x",
                   x.shape(), "got", g.shape());
  MOLE_CHECK_SHAPE(!c.defined() || c.shape() == Shape{d_out}, "mixture: expected a bias of shape",
                   Shape{d_out});
  const Index tokens = S * L, tokens_per_gate = per_token ? 1 : L;
  const auto y = Tensor<T, B>::empty({S, L, d_out});
  if (c.defined()) B::for_rows(tokens, d_out, detail::RepeatRow<T>{y.data(), c.data(), d_out});
  B::gemm(detail::gemm_nt(tokens, d_out, d_in, c.defined() ? 1 : 0), x.data(), W.data(), y.data());
  const auto p = Tensor<T, B>::empty(h.shape());
  B::for_rows(tokens, R,
              detail::GateRankRow<T>{h.data(), g.data(), expert.data(), p.data(), R, N, tokens_per_gate});
  B::gemm(detail::gemm_nt(tokens, d_out, R, 1), p.data(), Q.data(), y.data());

  return record({x, h, g}, y, [=](const auto&, const auto& G) {
    Tensor<T, B> dx, dh, dg;
    if (x.requires_grad()) {
      const GradTarget target(x);
      dx = target.tensor;
      B::gemm(detail::gemm_nn(tokens, d_in, d_out, target.beta), G.data(), W.data(), dx.data());
    }
    if (!h.requires_grad() && !g.requires_grad()) return std::array{dx, dh, dg};
    const auto dp = Tensor<T, B>::empty(h.shape());
    B::gemm(detail::gemm_nn(tokens, R, d_out), G.data(), Q.data(), dp.data());
    const auto per_row = g.requires_grad() ? Tensor<T, B>::empty({tokens, N}) : Tensor<T, B>();
    detail::GateRankPullbackRow<T> row{h.data(), g.data(), dp.data(), expert.data(),   nullptr,
                                       nullptr,  R,        N,         tokens_per_gate, false};
    if (per_row.defined()) row.dg = per_row.data();
    if (h.requires_grad()) {
      // Without an earlier gradient, dp turns into dh in place.
      const auto& before = h.node_pointer()->grad;
      row.add = detail::sole_owner(before);
      dh = row.add ? Tensor<T, B>(before) : dp;
      row.dh = dh.data();
    }
    B::for_rows(tokens, R, row);
    if (per_row.defined() && per_token) dg = Tensor<T, B>(g.shape(), per_row.buffer());
    if (per_row.defined() && !per_token) {
      dg = Tensor<T, B>::empty(g.shape());
      B::reduce(Reduction::sum, S, L, N, per_row.data(), dg.data());
    }
    return std::array{dx, dh, dg};
  });
}

}  // namespace mole
