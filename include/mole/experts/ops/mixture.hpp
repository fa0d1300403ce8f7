#pragma once
// The rank-space path of MoLE: what a gate pools, and the mixture itself, all on h = x A'^T of width
// R = sum of ranks; nothing of width N * d_out exists.
//
//   E_i = h_i Q_i^T (canonical experts: Q_i has orthonormal columns)   eq. 8
//   g     the gate, one weight an expert                                 eq. 11
//   y = x W^T + c + sum_i g_i E_i                                        eq. 12-13

#include <algorithm>
#include <array>

#include <mole/ops/matmul.hpp>
#include <mole/ops/norm.hpp>

namespace mole {

namespace detail {

/// y[t, j] = sum over the sequence's tokens of m x / sum of m, one row a sequence.
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

/// From dp: dg[t, i] = sum over the columns j of expert i of dp h, and dh = g dp, added where add is set,
/// or dh = g dp - along h.
template <class T>
struct GateRankPullbackRow {
  using C = Compute<T>;
  const T *h, *g, *dp;
  const Index* expert;
  T *dg, *dh;  ///< either may be null
  Index rank, experts, tokens_per_gate;
  bool add = false;
  const C* along = nullptr;                            ///< [tokens] or null: 0
  Index columns = rank / std::max<Index>(experts, 1);  ///< of each expert, where the ranks are equal

  /// The first column of expert i or a later one; columns are sorted by expert.
  MOLE_HD Index first_column(Index i) const {
    if (i >= experts) return rank;
    const Index guess = i * columns;
    if (expert[guess] == i && (guess == 0 || expert[guess - 1] < i)) return guess;
    Index low = 0, high = rank;
    while (low < high) {
      const Index middle = (low + high) / 2;
      if (expert[middle] < i)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T *const H = h + row.index() * rank, *const D = dp + row.index() * rank;
    const T* const gate = g + row.index() / tokens_per_gate * experts;
    const Index* const of = expert;
    if (dg) {
      T* const sums = dg + row.index() * experts;
      const auto& self = *this;
      row.each(experts, [=](Index i) {
        C total = 0;
        const Index last = self.first_column(i + 1);
        for (Index j = self.first_column(i); j < last; ++j) total += D[j] * H[j];
        sums[i] = total;
      });
    }
    if (dh) {
      T* const to = dh + row.index() * rank;
      const C a = along ? along[row.index()] : C(0);
      if (add)
        row.each(rank, [=](Index j) { to[j] = to[j] + D[j] * gate[of[j]]; });
      else if (along)
        row.each(rank, [=](Index j) { to[j] = D[j] * gate[of[j]] - a * H[j]; });
      else
        row.each(rank, [=](Index j) { to[j] = D[j] * gate[of[j]]; });
    }
  }
};

/// Throws ShapeError, naming the op, unless the operands of a mixture fit, h and g given by their shapes.
template <class T, class B>
void check_mixture(const char* op, const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                   const Shape& h, const Shape& g, const Tensor<T, B>& Q, const Tensor<Index, B>& expert) {
  MOLE_CHECK_SHAPE(x.rank() == 3 && W.rank() == 2 && x.size(2) == W.size(1), op,
                   ": expected x [S, L, d_in] and W [d_out, d_in], got", x.shape(), "and", W.shape());
  const Index S = x.size(0), L = x.size(1), d_out = W.size(0), R = Q.size(-1), N = g[-1];
  MOLE_CHECK_SHAPE(Q.shape() == Shape({d_out, R}) && h == Shape({S, L, R}) && expert.shape() == Shape({R}),
                   op, ": expected Q [d_out, R], h [S, L, R], expert [R], got", Q.shape(), h, expert.shape());
  MOLE_CHECK_SHAPE(g == (g.rank() == 3 ? Shape({S, L, N}) : Shape({S, N})), op,
                   ": expected a gate [S, N] or [S, L, N] for x", x.shape(), "got", g);
  MOLE_CHECK_SHAPE(!c.defined() || c.shape() == Shape{d_out}, op, ": expected a bias of shape", Shape{d_out});
  expert.check_indices(op, N);
}

/// y = p Q^T + beta y, off the tape.  p [S, L, R], Q [d_out, R] or [S, R, d_out], y [S, L, d_out].
template <class T, class B>
void through_Q(const Tensor<T, B>& p, const Tensor<T, B>& Q, int beta, const Tensor<T, B>& y) {
  const Index S = p.size(0), L = p.size(1), R = p.size(2), d_out = y.size(2);
  const Gemm spec = Q.rank() == 2 ? gemm_nt(S * L, d_out, R, beta)
                                  : batched(gemm_nn(L, d_out, R, beta), S, L * R, R * d_out, L * d_out);
  B::gemm(spec, p.data(), Q.data(), y.data());
}

/// x W^T + c + p Q^T, off the tape.  p [S, L, R], Q as above.
template <class T, class B>
Tensor<T, B> mixture_products(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                              const Tensor<T, B>& p, const Tensor<T, B>& Q) {
  const Index d_in = W.size(1), d_out = W.size(0), tokens = x.size(0) * x.size(1);
  const auto y = Tensor<T, B>::empty(x.shape().with(-1, d_out));
  if (c.defined()) B::for_rows(tokens, d_out, RepeatRow<T>{y.data(), c.data(), d_out});
  // The narrow product first: the wide one then adds to it while it multiplies.
  through_Q(p, Q, c.defined() ? 1 : 0, y);
  B::gemm(gemm_nt(tokens, d_out, d_in, 1), x.data(), W.data(), y.data());
  return y;
}

/// G W, added to what x has where that may be; undefined where x needs no gradient.
template <class T, class B>
Tensor<T, B> mixture_dx(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& G) {
  if (!x.requires_grad()) return {};
  const GradTarget target(x);
  B::gemm(gemm_nn(x.size(0) * x.size(1), W.size(1), W.size(0), target.beta), G.data(), W.data(),
          target.tensor.data());
  return target.tensor;
}

/// G Q, the gradient of p = g * h.
template <class T, class B>
Tensor<T, B> mixture_dp(const Tensor<T, B>& h, const Tensor<T, B>& Q, const Tensor<T, B>& G) {
  const auto dp = Tensor<T, B>::empty(h.shape());
  const Index S = h.size(0), L = h.size(1), R = h.size(2), d_out = G.size(-1);
  const Gemm spec = Q.rank() == 2 ? gemm_nn(S * L, R, d_out)
                                  : batched(gemm_nt(L, R, d_out), S, L * d_out, R * d_out, L * R);
  B::gemm(spec, G.data(), Q.data(), dp.data());
  return dp;
}

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

/// The mixture (eq. 12-13) on canonical experts: y = x W^T + c + (g * h) Q^T.
/// x [S, L, d_in]; W [d_out, d_in]; c [d_out] or undefined; h [S, L, R] = x A'^T; g [S, N] for a sequence
/// gate or [S, L, N] for a token gate; Q [d_out, R]; expert [R], ascending: the gate's column for each rank;
/// y [S, L, d_out]. Pullback of G, D = G Q: dx = G W, dh = g * D, dg_i = sum over expert i's columns (and a
/// sequence gate's tokens) of D * h. W, c and Q are frozen.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mixture(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                     const Tensor<T, B>& h, const Tensor<T, B>& g, const Tensor<T, B>& Q,
                     const Tensor<Index, B>& expert) {
  detail::check_mixture("mixture", x, W, c, h.shape(), g.shape(), Q, expert);
  const Index S = x.size(0), L = x.size(1), R = Q.size(1), N = g.size(-1), tokens = S * L;
  const bool per_token = g.rank() == 3;
  const Index tokens_per_gate = per_token ? 1 : L;
  auto p = Tensor<T, B>::empty(h.shape());
  B::for_rows(tokens, R,
              detail::GateRankRow<T>{h.data(), g.data(), expert.data(), p.data(), R, N, tokens_per_gate});
  const auto y = detail::mixture_products(x, W, c, p, Q);
  p = {};

  return record({x, h, g}, y, [=](const auto&, const auto& G) {
    Tensor<T, B> dh, dg;
    const auto dx = detail::mixture_dx(x, W, G);
    if (!h.requires_grad() && !g.requires_grad()) return std::array{dx, dh, dg};
    const auto dp = detail::mixture_dp(h, Q, G);
    const auto per_row = g.requires_grad() ? Tensor<T, B>::empty({tokens, N}) : Tensor<T, B>();
    detail::GateRankPullbackRow<T> row{h.data(), g.data(), dp.data(), expert.data(),  nullptr,
                                       nullptr,  R,        N,         tokens_per_gate};
    if (per_row.defined()) row.dg = per_row.data();
    if (h.requires_grad()) {
      // Without an earlier gradient, dp turns into dh in place.
      const auto& before = h.node_pointer()->grad;
      row.add = detail::sole_owner(before);
      dh = row.add ? Tensor<T, B>(before) : dp;
      row.dh = dh.data();
    }
    B::for_rows(tokens, std::max(R, N), row);
    if (per_row.defined() && per_token) dg = Tensor<T, B>(g.shape(), per_row.buffer());
    if (per_row.defined() && !per_token) {
      dg = Tensor<T, B>::empty(g.shape());
      B::reduce(Reduction::sum, S, L, N, per_row.data(), dg.data());
    }
    return std::array{dx, dh, dg};
  });
}

}  // namespace mole
