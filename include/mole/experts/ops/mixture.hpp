#pragma once
// The mixture of MoLE in rank space, on h = x A'^T of width R = sum of ranks; nothing of width N * d_out exists.
//
//   E_i = h_i Q_i^T (canonical experts: Q_i has orthonormal columns)   eq. 8
//   g     the gate, one weight an expert                                 eq. 11
//   y = x W^T + c + sum_i g_i E_i                                        eq. 12-13

#include <algorithm>
#include <array>
#include <type_traits>

#include <mole/autodiff/record.hpp>
#include <mole/experts/ops/detail/mixture_products.hpp>
#include <mole/experts/ops/detail/mixture_rows.hpp>

namespace mole {

namespace detail {

/// Throws ShapeError, naming the op, unless the operands of a mixture fit, h and g given by their shapes.
template <class T, class B>
void check_mixture(const char* op, const Tensor<T, B>& x, const FrozenWeight<T, B>& W, const Tensor<T, B>& c,
                   const Shape& h, const Shape& g, const Tensor<T, B>& Q, const Tensor<Index, B>& expert) {
  MOLE_CHECK_SHAPE(x.rank() == 3 && W.shape().rank() == 2 && x.size(2) == W.d_in(), op,
                   ": expected x [S, L, d_in] and W [d_out, d_in], got", x.shape(), "and", W.shape());
  const Index S = x.size(0), L = x.size(1), d_out = W.d_out(), R = Q.size(-1), N = g[-1];
  MOLE_CHECK_SHAPE(Q.shape() == Shape({d_out, R}) && h == Shape({S, L, R}) && expert.shape() == Shape({R}),
                   op, ": expected Q [d_out, R], h [S, L, R], expert [R], got", Q.shape(), h, expert.shape());
  MOLE_CHECK_SHAPE(g == (g.rank() == 3 ? Shape({S, L, N}) : Shape({S, N})), op,
                   ": expected a gate [S, N] or [S, L, N] for x", x.shape(), "got", g);
  MOLE_CHECK_SHAPE(!c.defined() || c.shape() == Shape{d_out}, op, ": expected a bias of shape", Shape{d_out});
  expert.check_indices(op, N);
}

}  // namespace detail

/// The mixture (eq. 12-13) on canonical experts: y = x W^T + c + (g * h) Q^T.
/// x [S, L, d_in]; W [d_out, d_in]; c [d_out] or undefined; h [S, L, R] = x A'^T; g [S, N] for a sequence
/// gate or [S, L, N] for a token gate; Q [d_out, R]; expert [R], ascending: the gate's column for each rank;
/// y [S, L, d_out]. Pullback of G, D = G Q: dx = G W, dh = g * D, dg_i = sum over expert i's columns (and a
/// sequence gate's tokens) of D * h. W, c and Q are frozen.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mixture(const Tensor<T, B>& x, const std::type_identity_t<FrozenWeight<T, B>>& W,
                     const Tensor<T, B>& c, const Tensor<T, B>& h, const Tensor<T, B>& g,
                     const Tensor<T, B>& Q, const Tensor<Index, B>& expert) {
  detail::check_mixture("mixture", x, W, c, h.shape(), g.shape(), Q, expert);
  const Index S = x.size(0), L = x.size(1), R = Q.size(1), N = g.size(-1), tokens = S * L;
  const bool per_token = g.rank() == 3;
  const Index tokens_per_gate = per_token ? 1 : L;
  auto p = Tensor<T, B>::empty(h.shape());
  B::for_rows(tokens, R,
              detail::GateRankRow<T>{h.data(), g.data(), expert.data(), p.data(), R, N, tokens_per_gate});
  const auto y = detail::mixture_products(x, W, c, p, Q);
  p = {};

  const auto kept_h = g.requires_grad() ? h : h.place();
  return record({x, h, g}, y, [=, x = x.place(), h = kept_h](const auto& G) {
    Tensor<T, B> dh, dg;
    const auto dx = detail::mixture_dx(x, W, G);
    if (!h.requires_grad() && !g.requires_grad()) return std::array{dx, dh, dg};
    const auto dp = detail::mixture_dp(h, Q, G);
    const auto per_row = g.requires_grad() ? Tensor<T, B>::empty({tokens, N}) : Tensor<T, B>();
    // Only dg reads h.
    detail::GateRankPullbackRow<T> row{nullptr, g.data(), dp.data(), expert.data(),  nullptr,
                                       nullptr, R,        N,         tokens_per_gate};
    row.h = per_row.defined() ? h.data() : dp.data();
    if (per_row.defined()) row.dg = per_row.data();
    if (h.requires_grad()) {
      // Without an earlier gradient, dp turns into dh in place.
      const auto& before = h.node_pointer()->grad;
      row.add = detail::sole_owner(before);
      dh = row.add ? before : dp;
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
