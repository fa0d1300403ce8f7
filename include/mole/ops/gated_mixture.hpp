#pragma once
// A layer's experts, their token gate and the mixture as one op, for a gate that reads its own layer: one
// kernel from h to the gated h, and one back, on a backend that has them.

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

/// With h = x A^T: g = gate_softmax(h, F, log_tau, keep) and y = mixture(x, W, c, h, g, Q, expert); operands
/// as in these two, A [R, d_in]. Nothing where the backend has no such kernel, or none for these extents:
/// then the separate ops do it. A, Q, W and c are frozen. Pullback of G, D = G Q: dg_i = sum over expert i's
/// columns of D * h, plus what g's other readers have sent back by then; dh = g * D + the dv of gate_softmax
/// for that dg; dx = dh A + G W.    Throws ShapeError.
template <class T, class B>
std::optional<GatedMixture<T, B>> gated_mixture(const Tensor<T, B>& x, const Tensor<T, B>& W,
                                                const Tensor<T, B>& c, const Tensor<T, B>& A,
                                                const Tensor<T, B>& F, const Tensor<T, B>& log_tau,
                                                const Tensor<T, B>& keep, const Tensor<T, B>& Q,
                                                const Tensor<Index, B>& expert) {
  if constexpr (!detail::has_gate_kernels<T, B>) {
    return std::nullopt;
  } else {
    using C = Compute<T>;
    constexpr C eps = static_cast<C>(1e-12);
    MOLE_CHECK_SHAPE(F.rank() == 2, "gated_mixture: expected F [R, N], got", F.shape());
    const Index R = F.size(0), N = F.size(1);
    if (!B::template gate_fits<T>(R, N)) return std::nullopt;
    const auto h = linear(x.detach(), A);
    detail::check_gate("gated_mixture", h, F, log_tau, keep);
    const auto g = Tensor<T, B>::empty(h.shape().with(-1, N));
    detail::check_mixture("gated_mixture", x, W, c, h, g, Q, expert);
    const Index rows = x.size(0) * x.size(1), d_in = W.size(1);
    const auto norm = Tensor<C, B>::empty({rows});
    auto p = Tensor<T, B>::empty(h.shape());
    B::gate_forward(GateForward<T>{h.data(), F.data(), log_tau.data(), keep.defined() ? keep.data() : nullptr,
                                   expert.data(), g.data(), norm.data(), p.data(), rows, R, N, eps});
    const auto y = detail::mixture_products(x, W, c, p, Q);
    p = {};
    // dx = dh A, added to what x has where that may be.
    auto through_A = [x, A, rows, R, d_in](const Tensor<T, B>& dh) {
      if (!x.requires_grad()) return Tensor<T, B>();
      const GradTarget target(x);
      B::gemm(detail::gemm_nn(rows, d_in, R, target.beta), dh.data(), A.data(), target.tensor.data());
      return target.tensor;
    };
    // For readers of g that send their gradient back only after y has.
    const auto gate = record({x, F, log_tau}, g, [=](const auto& g, const auto& G) {
      const auto [dh, dF, dlog_tau] =
          detail::gate_pullback(h, x.requires_grad(), F, log_tau, norm, eps, g, G, Tensor<T, B>(), expert);
      return std::array{through_A(dh), dF, dlog_tau};
    });
    const auto pullback = [=](const auto&, const auto& G) {
      const auto dp = detail::mixture_dp(h, Q, G);
      const Tensor<T, B> dg(std::exchange(gate.node_pointer()->grad, nullptr));
      const auto [dh, dF, dlog_tau] =
          detail::gate_pullback(h, x.requires_grad(), F, log_tau, norm, eps, gate, dg, dp, expert);
      // The narrow product first: the wide one then adds to it while it multiplies.
      const auto dx = through_A(dh);
      if (dx.defined()) B::gemm(detail::gemm_nn(rows, d_in, W.size(0), 1), G.data(), W.data(), dx.data());
      return std::array{dx, dF, dlog_tau};
    };
    return GatedMixture<T, B>{record({x, F, log_tau}, y, pullback), gate};
  }
}

}  // namespace mole
