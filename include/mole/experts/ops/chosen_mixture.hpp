#pragma once
// The mixture where each sequence has its own few experts: products of one small stack a sequence. Their
// factors are gathered on the device, forward and again on the way back, so that none of them stay.

#include <algorithm>
#include <array>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <mole/experts/ops/mixture.hpp>
#include <mole/ops/gather.hpp>

namespace mole {

/// The factors of each sequence's experts, each of them wherever it lies.
template <class T, class B>
struct ChosenPages {
  std::vector<Tensor<T, B>> pages;  ///< [r (d_in + d_out)]: the rows of A', then those of Q^T
  Tensor<Index, B> address;  ///< [S, k]: where the page of each sequence's k-th expert begins in memory
};

namespace detail {

/// Row i of y [.., n] is what lies at address[i], n elements from `first` on.
template <class T>
struct GatherPageRow {
  const Index* address;
  T* y;
  Index n, first;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const T* const from =
        reinterpret_cast<const T*>(static_cast<std::uintptr_t>(address[row.index()])) + first;
    T* const to = y + row.index() * n;
    row.each(n, [=](Index j) { to[j] = from[j]; });
  }
};

/// The operands of a chosen mixture.
template <class T, class B>
struct ChosenMixture {
  Tensor<T, B> x;
  FrozenWeight<T, B> W;
  Tensor<T, B> c, A, Q, g;
  Tensor<Index, B> columns, place;
  Index S, L, d_in, d_out, R;
  ChosenPages<T, B> pages = {};  ///< in place of A, Q and columns

  /// The rows of the chosen experts' A', [S, R, d_in], and of their Q^T, [S, R, d_out].
  Tensor<T, B> stacked_A() const { return stacked(A, d_in, 0); }
  Tensor<T, B> stacked_Q() const { return stacked(Q, d_out, ranks() * d_in); }
  /// r
  Index ranks() const { return R / std::max<Index>(g.size(1), 1); }

 private:
  Tensor<T, B> stacked(const Tensor<T, B>& blocks, Index width, Index first) const {
    const Index n = ranks() * width;
    const auto rows = Tensor<T, B>::empty({S, R, width});
    if (pages.address.defined())
      B::for_rows(pages.address.size(), n, GatherPageRow<T>{pages.address.data(), rows.data(), n, first});
    else
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
  const bool paged = m.pages.address.defined();
  const Shape& chosen = paged ? m.pages.address.shape() : m.columns.shape();
  MOLE_CHECK_SHAPE(chosen.rank() == 2 && chosen[0] == m.S && m.g.shape() == chosen,
                   "chosen_mixture: expected columns and weights [S, k] for x", m.x.shape(), "got", chosen,
                   "and", m.g.shape());
  const Index k = chosen[1], r = m.ranks();
  MOLE_CHECK_SHAPE(m.place.shape() == Shape{k * r}, "chosen_mixture: expected place [k r], got",
                   m.place.shape());
  m.place.check_indices("chosen_mixture", k);
  if (paged) {
    for (const auto& page : m.pages.pages)
      MOLE_CHECK_SHAPE(page.shape() == Shape{r * (m.d_in + m.d_out)}, "chosen_mixture: expected pages",
                       Shape{r * (m.d_in + m.d_out)}, "got", page.shape());
    return;
  }
  MOLE_CHECK_SHAPE(m.A.rank() == 2 && m.A.shape() == Shape({m.A.size(0), r * m.d_in}) &&
                       m.Q.shape() == Shape({m.A.size(0), r * m.d_out}),
                   "chosen_mixture: expected A [N, r d_in], Q [N, r d_out], place [k r], got", m.A.shape(),
                   m.Q.shape(), m.place.shape());
  m.columns.check_indices("chosen_mixture", m.A.size(0));
}

template <class T, class B>
Tensor<T, B> chosen_mixture_of(const ChosenMixture<T, B>& m) {
  check_chosen_mixture(m);
  const Index tokens = m.S * m.L, k = m.g.size(1);
  const auto h = Tensor<T, B>::empty({m.S, m.L, m.R}), p = Tensor<T, B>::empty(h.shape());
  B::gemm(batched(gemm_nt(m.L, m.R, m.d_in), m.S, m.L * m.d_in, m.R * m.d_in, m.L * m.R), m.x.data(),
          m.stacked_A().data(), h.data());
  B::for_rows(tokens, m.R, GateRankRow<T>{h.data(), m.g.data(), m.place.data(), p.data(), m.R, k, m.L});
  const auto y = mixture_products(m.x, m.W, m.c, p, m.stacked_Q());

  auto kept = m;
  kept.x = m.x.place();
  return record({m.x, m.g}, y, [m = kept, h, tokens, k](const auto& G) {
    Tensor<T, B> dx, dg;
    const auto dp = mixture_dp(h, m.stacked_Q(), G);
    const auto per_row = m.g.requires_grad() ? Tensor<T, B>::empty({tokens, k}) : Tensor<T, B>();
    // dp turns into dh in place.
    B::for_rows(tokens, std::max(m.R, k),
                GateRankPullbackRow<T>{h.data(), m.g.data(), dp.data(), m.place.data(),
                                       per_row.defined() ? per_row.data() : nullptr,
                                       m.x.requires_grad() ? dp.data() : nullptr, m.R, k, m.L, false});
    if (per_row.defined()) {
      dg = Tensor<T, B>::empty(m.g.shape());
      B::reduce(Reduction::sum, m.S, m.L, k, per_row.data(), dg.data());
    }
    if (m.x.requires_grad()) {
      const GradTarget target(m.x);
      dx = target.tensor;
      const auto factors = m.stacked_A();
      // The narrow product first: the wide one then adds to it while it multiplies.
      B::gemm(batched(gemm_nn(m.L, m.d_in, m.R, target.beta), m.S, m.L * m.R, m.R * m.d_in, m.L * m.d_in),
              dp.data(), factors.data(), dx.data());
      m.W.backward(tokens, G.data(), true, dx.data());
    }
    return std::array{dx, dg};
  });
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
  return detail::chosen_mixture_of<T, B>(
      {x, W, c, A, Q, g, columns, place, x.size(0), x.size(1), W.d_in(), W.d_out(), place.size()});
}

/// The same with experts that lie in pages.
template <class T, class B>
Tensor<T, B> chosen_mixture(const Tensor<T, B>& x, const std::type_identity_t<FrozenWeight<T, B>>& W,
                            const Tensor<T, B>& c, const ChosenPages<T, B>& pages, const Tensor<T, B>& g,
                            const Tensor<Index, B>& place) {
  return detail::chosen_mixture_of<T, B>(
      {x, W, c, {}, {}, g, {}, place, x.size(0), x.size(1), W.d_in(), W.d_out(), place.size(), pages});
}

}  // namespace mole
