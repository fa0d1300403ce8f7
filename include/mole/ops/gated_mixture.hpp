#pragma once
// A layer's experts, their token gate and the mixture as one op, for a gate that reads its own layer: by one
// kernel from h to the gated h, and one back, on a backend that has them; elsewhere in chunks of tokens, so
// that beside h and g nothing as long as the batch is stored.

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <mole/ops/gate_softmax.hpp>
#include <mole/ops/mixture.hpp>

namespace mole {

/// A mixture with the gate that made it.
template <class T, class B>
struct GatedMixture {
  Tensor<T, B> y;  ///< [S, L, d_out]
  Tensor<T, B> g;  ///< [S, L, N]
};

namespace detail {

/// The operands of a gated mixture and what its forward pass keeps.
template <class T, class B>
struct GatedMixtureState {
  Tensor<T, B> x, W, c, A, F, log_tau, keep, Q;
  Tensor<Index, B> expert;
  Tensor<T, B> h, g;
  Tensor<Compute<T>, B> norm;
  Index rows, d_in, d_out, R, N;

  static constexpr Compute<T> eps = static_cast<Compute<T>>(1e-12);
};

/// dx = dh A for `count` rows from `first` on, into dx times beta.
template <class T, class B>
void through_A(const GatedMixtureState<T, B>& s, const T* dh, Index first, Index count, int beta,
               const Tensor<T, B>& dx) {
  B::gemm(gemm_nn(count, s.d_in, s.R, beta), dh, s.A.data(), dx.data() + first * s.d_in);
}

/// For readers of g that send their gradient back only after y has: dx, dF, dlog_tau.
template <class T, class B>
std::array<Tensor<T, B>, 3> late_gate_pullback(const GatedMixtureState<T, B>& s, const Tensor<T, B>& g,
                                               const Tensor<T, B>& G) {
  const bool wanted = s.x.requires_grad();
  auto [dh, dF, dlog_tau] =
      gate_pullback(s.h, wanted, s.F, s.log_tau, s.norm, s.eps, g, G, Tensor<T, B>(), Tensor<Index, B>());
  if (!wanted) return {Tensor<T, B>(), dF, dlog_tau};
  const GradTarget target(s.x);
  through_A(s, dh.data(), 0, s.rows, target.beta, target.tensor);
  return {target.tensor, dF, dlog_tau};
}

/// The gate and y by the backend's kernel.
template <class T, class B>
Tensor<T, B> gated_forward(const GatedMixtureState<T, B>& s) {
  const auto p = Tensor<T, B>::empty(s.h.shape());
  B::gate_forward(GateForward<T>{s.h.data(), s.F.data(), s.log_tau.data(),
                                 s.keep.defined() ? s.keep.data() : nullptr, s.expert.data(), s.g.data(),
                                 s.norm.data(), p.data(), s.rows, s.R, s.N, s.eps});
  return mixture_products(s.x, s.W, s.c, p, s.Q);
}

/// dx, dF, dlog_tau by the backend's kernel. dg is what g's other readers sent, or undefined.
template <class T, class B>
std::array<Tensor<T, B>, 3> gated_pullback(const GatedMixtureState<T, B>& s, const Tensor<T, B>& G,
                                           const Tensor<T, B>& dg) {
  const auto dp = mixture_dp(s.h, s.Q, G);
  const bool wanted = s.x.requires_grad();
  auto [dh, dF, dlog_tau] = gate_pullback(s.h, wanted, s.F, s.log_tau, s.norm, s.eps, s.g, dg, dp, s.expert);
  if (!wanted) return {Tensor<T, B>(), dF, dlog_tau};
  const GradTarget target(s.x);
  through_A(s, dh.data(), 0, s.rows, target.beta, target.tensor);
  // The narrow product first: the wide one then adds to it while it multiplies.
  B::gemm(gemm_nn(s.rows, s.d_in, s.d_out, 1), G.data(), s.W.data(), target.tensor.data());
  return {target.tensor, dF, dlog_tau};
}

/// Tokens of a chunk: enough for a matrix product to run at full speed, and of a batch worth saving memory at
/// no more than half.
inline Index gate_chunk(Index rows) { return std::clamp<Index>((rows + 1) / 2, 64, 512); }

/// The gate, and y chunk by chunk.
template <class T, class B>
Tensor<T, B> gated_forward_by_chunks(const GatedMixtureState<T, B>& s) {
  B::gemm(Gemm{.m = s.rows, .n = s.N, .k = s.R, .lda = s.R, .ldb = s.N, .ldc = s.N}, s.h.data(), s.F.data(),
          s.g.data());
  B::for_rows(s.rows, std::max(s.R, s.N),
              GateSoftmaxRow<T>{s.h.data(), s.log_tau.data(), s.keep.defined() ? s.keep.data() : nullptr,
                                s.g.data(), s.norm.data(), s.R, s.N, s.eps});
  const auto y = Tensor<T, B>::empty(s.x.shape().with(-1, s.d_out));
  const Index most = std::min(gate_chunk(s.rows), s.rows);
  const auto p = Tensor<T, B>::empty({most, s.R});
  if (s.c.defined()) B::for_rows(s.rows, s.d_out, RepeatRow<T>{y.data(), s.c.data(), s.d_out});
  for (Index first = 0; first < s.rows; first += most) {
    const Index count = std::min(most, s.rows - first);
    B::for_rows(count, s.R,
                GateRankRow<T>{s.h.data() + first * s.R, s.g.data() + first * s.N, s.expert.data(), p.data(),
                               s.R, s.N, 1});
    B::gemm(gemm_nt(count, s.d_out, s.R, s.c.defined() ? 1 : 0), p.data(), s.Q.data(),
            y.data() + first * s.d_out);
  }
  B::gemm(gemm_nt(s.rows, s.d_out, s.d_in, 1), s.x.data(), s.W.data(), y.data());
  return y;
}

/// dx, dF, dlog_tau chunk by chunk. dg is what g's other readers sent, or undefined.
template <class T, class B>
std::array<Tensor<T, B>, 3> gated_pullback_by_chunks(const GatedMixtureState<T, B>& s, const Tensor<T, B>& G,
                                                     const Tensor<T, B>& dg) {
  using C = Compute<T>;
  const bool wanted = s.x.requires_grad();
  std::optional<GradTarget<T, B>> dx, dF;
  if (wanted) dx.emplace(s.x);
  if (s.F.requires_grad()) dF.emplace(s.F);
  if (dF && dF->beta == 0 && s.rows == 0) dF->tensor.fill(T(0));
  const Index most = std::min(gate_chunk(s.rows), s.rows);
  const auto dp = Tensor<T, B>::empty({most, s.R}), slopes = Tensor<T, B>::empty({most, s.N});
  const auto along = Tensor<C, B>::empty({most}), tau_rows = Tensor<C, B>::empty({s.rows});
  for (Index first = 0; first < s.rows; first += most) {
    const Index count = std::min(most, s.rows - first);
    const T *const h = s.h.data() + first * s.R, *const g = s.g.data() + first * s.N;
    B::gemm(gemm_nn(count, s.R, s.d_out), G.data() + first * s.d_out, s.Q.data(), dp.data());
    GateRankPullbackRow<T> rank{h, g, dp.data(), s.expert.data(), slopes.data(), nullptr, s.R, s.N, 1, false};
    B::for_rows(count, std::max(s.R, s.N), rank);
    if (dg.defined())
      transform<B>(count * s.N, functor::Add{}, slopes.data(), slopes.data(), dg.data() + first * s.N);
    B::for_rows(count, s.N,
                GateSoftmaxPullbackRow<T>{g, slopes.data(), s.log_tau.data(), s.norm.data() + first,
                                          slopes.data(), along.data(), tau_rows.data() + first, s.N, s.eps});
    if (dF)
      B::gemm(gemm_tn(s.R, s.N, count, first > 0 || dF->beta == 1 ? 1 : 0), h, slopes.data(),
              dF->tensor.data());
    if (!wanted) continue;
    rank.dg = nullptr;
    rank.dh = dp.data();
    B::for_rows(count, s.R, rank);
    B::for_rows(count, s.R, RemoveAlongRow<T>{h, along.data(), dp.data(), s.R, true});
    B::gemm(gemm_nt(count, s.R, s.N, 1), slopes.data(), s.F.data(), dp.data());
    through_A(s, dp.data(), first, count, dx->beta, dx->tensor);
  }
  if (wanted) B::gemm(gemm_nn(s.rows, s.d_in, s.d_out, 1), G.data(), s.W.data(), dx->tensor.data());
  return {wanted ? dx->tensor : Tensor<T, B>(), dF ? dF->tensor : Tensor<T, B>(),
          s.log_tau.requires_grad() ? gather_dlog_tau<T>(tau_rows, s.log_tau.shape()) : Tensor<T, B>()};
}

}  // namespace detail

/// With h = x A^T: g = gate_softmax(h, F, log_tau, keep) and y = mixture(x, W, c, h, g, Q, expert); operands
/// as in these two, A [R, d_in]. Nothing where the backend has kernels for it, but none for these extents:
/// then the separate ops do it. A, Q, W and c are frozen. Pullback of G, D = G Q: dg_i = sum over expert i's
/// columns of D * h, plus what g's other readers have sent back by then; dh = g * D + the dv of gate_softmax
/// for that dg; dx = dh A + G W.    Throws ShapeError.
template <class T, class B>
std::optional<GatedMixture<T, B>> gated_mixture(const Tensor<T, B>& x, const Tensor<T, B>& W,
                                                const Tensor<T, B>& c, const Tensor<T, B>& A,
                                                const Tensor<T, B>& F, const Tensor<T, B>& log_tau,
                                                const Tensor<T, B>& keep, const Tensor<T, B>& Q,
                                                const Tensor<Index, B>& expert) {
  MOLE_CHECK_SHAPE(F.rank() == 2, "gated_mixture: expected F [R, N], got", F.shape());
  const Index R = F.size(0), N = F.size(1);
  constexpr bool by_kernels = detail::has_gate_kernels<T, B>;
  if constexpr (by_kernels)
    if (!B::template gate_fits<T>(R, N)) return std::nullopt;
  const auto h = linear(x.detach(), A);
  detail::check_gate("gated_mixture", h, F, log_tau, keep);
  const auto g = Tensor<T, B>::empty(h.shape().with(-1, N));
  detail::check_mixture("gated_mixture", x, W, c, h, g, Q, expert);
  const Index rows = x.size(0) * x.size(1);
  const auto norm = Tensor<Compute<T>, B>::empty({rows});
  const detail::GatedMixtureState<T, B> state{x, W, c,    A,    F,         log_tau,   keep, Q, expert,
                                              h, g, norm, rows, W.size(1), W.size(0), R,    N};
  Tensor<T, B> y;
  if constexpr (by_kernels)
    y = detail::gated_forward(state);
  else
    y = detail::gated_forward_by_chunks(state);
  auto kept = state;
  kept.g = {};  // g's own node must not hold itself
  const auto gate = record({x, F, log_tau}, g, [kept](const auto& g, const auto& G) {
    return detail::late_gate_pullback(kept, g, G);
  });
  kept.g = gate;
  const auto pullback = [kept](const auto&, const auto& G) {
    const Tensor<T, B> dg(std::exchange(kept.g.node_pointer()->grad, nullptr));
    if constexpr (by_kernels)
      return detail::gated_pullback(kept, G, dg);
    else
      return detail::gated_pullback_by_chunks(kept, G, dg);
  };
  return GatedMixture<T, B>{record({x, F, log_tau}, y, pullback), gate};
}

}  // namespace mole
