#pragma once
// What the ways to compute a gated mixture share: its operands, and what is done to a token's row between the products.

#include <algorithm>
#include <array>

#include <mole/experts/ops/detail/gated_layer.hpp>

namespace mole::detail {

/// to[j] += from[j], unless there is nothing to add.
template <class T>
struct AddToRow {
  T* to;
  const T* from;
  Index n;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    if (!from) return;
    T* const y = to + row.index() * n;
    const T* const x = from + row.index() * n;
    row.each(n, [=](Index j) { y[j] = y[j] + x[j]; });
  }
};

/// The operands of a gated mixture and what its forward pass keeps.
template <class T, class B>
struct GatedOperands {
  Tensor<T, B> x;
  GatedLayer<T, B> layer;
  FoldedGate<T, B> folded;
  Tensor<T, B> h;
  Tensor<Compute<T>, B> norm;
  Index rows, d_in, d_out, R, N;

  static constexpr Compute<T> eps = static_cast<Compute<T>>(gate_eps);

  /// Of `count` rows from `first` on, with g = h F given, unless folded.in_rows(): g = the gate, p = g h.
  void gate_rows(Index first, Index count, T* g, T* p) const {
    const T* const from = h.data() + first * R;
    B::for_rows(
        count, std::max(R, N),
        in_turn(
            GateSoftmaxRow<T>{from, layer.log_tau.data(), layer.keep.defined() ? layer.keep.data() : nullptr,
                              g, norm.data() + first, R, N, eps, folded.bias_data(), folded.in_rows()},
            GateRankRow<T>{from, g, layer.expert.data(), p, R, N, 1}));
  }

  /// Of `count` rows from `first` on, with dp = G Q given: slopes = dz / |v| from dp and from dg, what the gate's
  /// readers sent, or null; the row's part of dlog_tau; dp becomes dh without the part through the gate's
  /// weights, where that is wanted. `along` is [count] for the row's own use.
  void pull_rows(Index first, Index count, const T* g, const T* dg, T* dp, T* slopes, Compute<T>* along,
                 Compute<T>* tau, bool dh_wanted) const {
    const T* const from = h.data() + first * R;
    const GateRankPullbackRow<T> rank{from, g, dp, layer.expert.data(), slopes, nullptr, R, N, 1};
    GateRankPullbackRow<T> to_h = rank;
    to_h.dg = nullptr;
    to_h.dh = dh_wanted ? dp : nullptr;
    to_h.along = along;
    B::for_rows(count, std::max(R, N),
                in_turn(rank, AddToRow<T>{slopes, dg, N},
                        GateSoftmaxPullbackRow<T>{g, slopes, layer.log_tau.data(), norm.data() + first,
                                                  slopes, along, tau, N, eps, folded.bias_data()},
                        to_h));
  }
};

/// The gradients of x, F and log_tau; undefined where they are not wanted.
template <class T, class B>
using GatedGradients = std::array<Tensor<T, B>, 3>;

/// Where g is read and y is not: dx, dF, dlog_tau.
template <class T, class B>
GatedGradients<T, B> gate_alone_pullback(const GatedOperands<T, B>& s, const Tensor<T, B>& g,
                                         const Tensor<T, B>& G) {
  const bool wanted = s.x.requires_grad();
  auto [dh, dF, dlog_tau] =
      gate_pullback(s.h, wanted, s.layer.F, s.layer.log_tau, s.layer.scale, s.folded, s.norm, s.eps, g, G);
  if (!wanted) return {Tensor<T, B>(), dF, dlog_tau};
  const GradTarget target(s.x);
  B::gemm(gemm_nn(s.rows, s.d_in, s.R, target.beta), dh.data(), s.layer.A.data(), target.tensor.data());
  return {target.tensor, dF, dlog_tau};
}

}  // namespace mole::detail
