#pragma once
// The mixture where each sequence has its own few experts: products of one small stack a sequence. Their
// factors are gathered on the device, forward and again on the way back, so that none of them stay.

#include <algorithm>
#include <array>
#include <type_traits>

#include <mole/experts/ops/mixture.hpp>
#include <mole/ops/gather.hpp>

namespace mole {

namespace detail {

/// The operands of a chosen mixture.
template <class T, class B>
struct ChosenMixture {
  Tensor<T, B> x;
  FrozenWeight<T, B> W;
  Tensor<T, B> c, A, Q, g;
  Tensor<Index, B> columns, place;
  Index S, L, d_in, d_out, R;

  /// The rows of the chosen blocks, [S, R, width].
  Tensor<T, B> stacked(const Tensor<T, B>& blocks, Index width) const {
    const Index n = blocks.size(1);
    const auto rows = Tensor<T, B>::empty({S, R, width});
    B::for_rows(columns.size(), n, GatherRow<T>{blocks.data(), columns.data(), rows.data(), n});
    return rows;
  }
};

template <class T, class B>
void check_chosen_mixture(const ChosenMixture<T, B>& m) {
  MOLE_CHECK_SHAPE(m.x.rank() == 3 && m.W.shape().rank() == 2 && m.x.size(2) == m.W.d_in(),
                   "chosen_mixture: expected x [S, L, d_in] and W [d_out, d_in], got", m.x.shape(), "and",
                   m.W.shape());
  MOLE_CHECK_SHAPE(!m.c.defined() || m.c.shape() == Shape{m.d_out},
                   "chosen_mixture: expected a bias of shape", Shape{m.d_out}, "got", m.c.shape());
  MOLE_CHECK_SHAPE(m.columns.rank() == 2 && m.columns.size(0) == m.S && m.g.shape() == m.columns.shape(),
                   "chosen_mixture: expected columns and weights [S, k] for x", m.x.shape(), "got",
                   m.columns.shape(), "and", m.g.shape());
  const Index k = m.columns.size(1), r = m.R / std::max<Index>(k, 1);
  MOLE_CHECK_SHAPE(m.A.rank() == 2 && m.place.shape() == Shape{k * r} &&
                       m.A.shape() == Shape({m.A.size(0), r * m.d_in}) &&
                       m.Q.shape() == Shape({m.A.size(0), r * m.d_out}),
                   "chosen_mixture: expected A [N, r d_in], Q [N, r d_out], place [k r], got", m.A.shape(),
                   m.Q.shape(), m.place.shape());
  m.place.check_indices("chosen_mixture", k);
  m.columns.check_indices("chosen_mixture", m.A.size(0));
}

}  // namespace detail

/// The mixture (eq. 12-13) with k experts a sequence: y_s = x_s W^T + c + (g_s * h_s) Q_s^T, h_s = x_s A_s^T.
/// x [S, L, d_in]; W [d_out, d_in]; c [d_out] or undefined; A [N, r d_in] and Q [N, r d_out]: the rows of A'
/// and of Q^T of each expert; columns [S, k] in [0, N), g [S, k]: each sequence's experts and their weights;
/// place [k r], ascending: which of the k a rank belongs to; y [S, L, d_out]. Pullback of G, D_s = G_s Q_s:
/// dx_s = (g_s * D_s) A_s + G_s W, dg_sj = sum over j's ranks and the tokens of D * h. All but x and g is
/// frozen.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> chosen_mixture(const Tensor<T, B>& x, const std::type_identity_t<FrozenWeight<T, B>>& W,
                            const Tensor<T, B>& c, const Tensor<T, B>& A, const Tensor<T, B>& Q,
                            const Tensor<Index, B>& columns, const Tensor<T, B>& g,
                            const Tensor<Index, B>& place) {
  const detail::ChosenMixture<T, B> m{x,     W,         c,         A,        Q,         g,           columns,
                                      place, x.size(0), x.size(1), W.d_in(), W.d_out(), place.size()};
  detail::check_chosen_mixture(m);
  const Index tokens = m.S * m.L, k = columns.size(1);
  const auto h = Tensor<T, B>::empty({m.S, m.L, m.R}), p = Tensor<T, B>::empty(h.shape());
  B::gemm(detail::batched(detail::gemm_nt(m.L, m.R, m.d_in), m.S, m.L * m.d_in, m.R * m.d_in, m.L * m.R),
          x.data(), m.stacked(A, m.d_in).data(), h.data());
  B::for_rows(tokens, m.R, detail::GateRankRow<T>{h.data(), g.data(), place.data(), p.data(), m.R, k, m.L});
  const auto y = detail::mixture_products(x, W, c, p, m.stacked(Q, m.d_out));

  return record({x, g}, y, [m, h, tokens, k](const auto&, const auto& G) {
    Tensor<T, B> dx, dg;
    const auto dp = detail::mixture_dp(h, m.stacked(m.Q, m.d_out), G);
    const auto per_row = m.g.requires_grad() ? Tensor<T, B>::empty({tokens, k}) : Tensor<T, B>();
    // dp turns into dh in place.
    B::for_rows(
        tokens, std::max(m.R, k),
        detail::GateRankPullbackRow<T>{h.data(), m.g.data(), dp.data(), m.place.data(),
                                       per_row.defined() ? per_row.data() : nullptr,
                                       m.x.requires_grad() ? dp.data() : nullptr, m.R, k, m.L, false});
    if (per_row.defined()) {
      dg = Tensor<T, B>::empty(m.g.shape());
      B::reduce(Reduction::sum, m.S, m.L, k, per_row.data(), dg.data());
    }
    if (m.x.requires_grad()) {
      const GradTarget target(m.x);
      dx = target.tensor;
      const auto factors = m.stacked(m.A, m.d_in);
      // The narrow product first: the wide one then adds to it while it multiplies.
      B::gemm(detail::batched(detail::gemm_nn(m.L, m.d_in, m.R, target.beta), m.S, m.L * m.R, m.R * m.d_in,
                              m.L * m.d_in),
              dp.data(), factors.data(), dx.data());
      m.W.backward(tokens, G.data(), true, dx.data());
    }
    return std::array{dx, dg};
  });
}

}  // namespace mole
