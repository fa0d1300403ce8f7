#pragma once
// A gated mixture by matrix products and row functors, which any backend has.

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>

#include <mole/core/branch.hpp>
#include <mole/experts/ops/detail/gated_layer.hpp>

namespace mole::detail {

/// The operands of a gated mixture and what its forward pass keeps.
template <class T, class B>
struct GatedByRows {
  Tensor<T, B> x;
  GatedLayer<T, B> layer;
  FoldedGate<T, B> folded;
  Tensor<T, B> h;
  Tensor<Compute<T>, B> norm;
  Index rows, d_in, d_out, R, N;

  static constexpr Compute<T> eps = static_cast<Compute<T>>(gate_eps);

  /// Tokens that are worked on at a time: enough for a matrix product to run at full speed, and of a batch
  /// worth saving memory at no more than half. A backend that has kernels would be held up by their launches.
  Index chunk() const {
    if constexpr (has_gate_kernels<T, B>) return std::max<Index>(rows, 1);
    return std::min(std::clamp<Index>((rows + 1) / 2, 64, 512), std::max<Index>(rows, 1));
  }
};

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

/// The gate into g, and y chunk by chunk.
template <class T, class B>
Tensor<T, B> gated_forward(const GatedByRows<T, B>& s, const Tensor<T, B>& gate) {
  const auto& l = s.layer;
  const auto y = Tensor<T, B>::empty(s.x.shape().with(-1, s.d_out));
  const Index most = s.chunk();
  const auto p = Tensor<T, B>::empty({most, s.R});
  if (l.c.defined()) B::for_rows(s.rows, s.d_out, RepeatRow<T>{y.data(), l.c.data(), s.d_out});
  const auto add_frozen = [&](bool add) { l.W.forward(s.rows, s.x.data(), add, y.data()); };
  // Beside the gate, whose steps leave most of the device idle, or last.
  Branch<B> branch;
  const bool frozen_first = branch.begin([&] { add_frozen(l.c.defined()); });
  B::gemm(Gemm{.m = s.rows, .n = s.N, .k = s.R, .lda = s.R, .ldb = s.N, .ldc = s.N}, s.h.data(),
          s.folded.F.data(), gate.data());
  for (Index first = 0; first < s.rows; first += most) {
    const Index count = std::min(most, s.rows - first);
    const T* const h = s.h.data() + first * s.R;
    T* const g = gate.data() + first * s.N;
    B::for_rows(count, std::max(s.R, s.N),
                in_turn(GateSoftmaxRow<T>{h, l.log_tau.data(), l.keep.defined() ? l.keep.data() : nullptr, g,
                                          s.norm.data() + first, s.R, s.N, s.eps, s.folded.bias_data()},
                        GateRankRow<T>{h, g, l.expert.data(), p.data(), s.R, s.N, 1}));
    branch.join();
    B::gemm(gemm_nt(count, s.d_out, s.R, frozen_first || l.c.defined() ? 1 : 0), p.data(), l.Q.data(),
            y.data() + first * s.d_out);
  }
  if (!frozen_first) add_frozen(true);
  return y;
}

/// dx, dF, dlog_tau chunk by chunk. dg is what the gate's readers sent, or undefined. `last`: nobody will ask
/// for what the forward pass kept again.
template <class T, class B>
std::array<Tensor<T, B>, 3> gated_pullback(GatedByRows<T, B>& s, const Tensor<T, B>& gate,
                                           const Tensor<T, B>& G, const Tensor<T, B>& dg, bool last) {
  using C = Compute<T>;
  const auto& l = s.layer;
  const bool wanted = s.x.requires_grad();
  std::optional<GradTarget<T, B>> dx;
  const FoldedTarget<T, B> dF(l.F, l.scale);
  if (dF.wanted() && s.rows == 0) {
    if (!dF.add) dF.dF.fill(T(0));
    dF.add_bias(0, nullptr, nullptr, false);
  }
  const Index most = s.chunk();
  const auto dp = Tensor<T, B>::empty({most, s.R}), slopes = Tensor<T, B>::empty({most, s.N});
  const auto along = Tensor<C, B>::empty({most}), tau_rows = Tensor<C, B>::empty({s.rows});
  for (Index first = 0; first < s.rows; first += most) {
    const Index count = std::min(most, s.rows - first);
    const T *const h = s.h.data() + first * s.R, *const g = gate.data() + first * s.N;
    B::gemm(gemm_nn(count, s.R, s.d_out), G.data() + first * s.d_out, l.Q.data(), dp.data());
    const GateRankPullbackRow<T> rank{h, g, dp.data(), l.expert.data(), slopes.data(), nullptr, s.R, s.N, 1};
    // dp turns into dh, where that is wanted.
    GateRankPullbackRow<T> to_h = rank;
    to_h.dg = nullptr;
    to_h.dh = wanted ? dp.data() : nullptr;
    to_h.along = along.data();
    B::for_rows(
        count, std::max(s.R, s.N),
        in_turn(rank, AddToRow<T>{slopes.data(), dg.defined() ? dg.data() + first * s.N : nullptr, s.N},
                GateSoftmaxPullbackRow<T>{g, slopes.data(), l.log_tau.data(), s.norm.data() + first,
                                          slopes.data(), along.data(), tau_rows.data() + first, s.N, s.eps,
                                          s.folded.bias_data()},
                to_h));
    const auto add_dF = [&] {
      B::gemm(gemm_tn(s.R, s.N, count, first > 0 || dF.add ? 1 : 0), h, slopes.data(), dF.data());
      dF.add_bias(count, slopes.data(), s.norm.data() + first, first > 0);
    };
    Branch<B> branch;
    if (dF.wanted() && !branch.begin(add_dF)) add_dF();
    if (wanted) B::gemm(gemm_nt(count, s.R, s.N, 1), slopes.data(), s.folded.F.data(), dp.data());
    branch.join();
    if (last && first + count == s.rows) s.h = {};  // before dx is there, if this is the only chunk
    if (!wanted) continue;
    if (!dx) dx.emplace(s.x);
    B::gemm(gemm_nn(count, s.d_in, s.R, dx->beta), dp.data(), l.A.data(), dx->tensor.data() + first * s.d_in);
  }
  if (wanted && !dx) dx.emplace(s.x);
  // The narrow product first: the wide one then adds to it while it multiplies.
  const auto add_frozen = [&] { l.W.backward(s.rows, G.data(), true, dx->tensor.data()); };
  Branch<B> branch;
  if (wanted && !branch.begin(add_frozen)) add_frozen();
  const auto dlog_tau =
      l.log_tau.requires_grad() ? gather_dlog_tau<T>(tau_rows, l.log_tau.shape()) : Tensor<T, B>();
  branch.join();
  return {wanted ? dx->tensor : Tensor<T, B>(), dF.gradient(), dlog_tau};
}

/// Where g is read and y is not: dx, dF, dlog_tau.
template <class T, class B>
std::array<Tensor<T, B>, 3> gate_alone_pullback(const GatedByRows<T, B>& s, const Tensor<T, B>& g,
                                                const Tensor<T, B>& G) {
  const bool wanted = s.x.requires_grad();
  auto [dh, dF, dlog_tau] =
      gate_pullback(s.h, wanted, s.layer.F, s.layer.log_tau, s.layer.scale, s.folded, s.norm, s.eps, g, G);
  if (!wanted) return {Tensor<T, B>(), dF, dlog_tau};
  const GradTarget target(s.x);
  B::gemm(gemm_nn(s.rows, s.d_in, s.R, target.beta), dh.data(), s.layer.A.data(), target.tensor.data());
  return {target.tensor, dF, dlog_tau};
}

/// See gated_mixture.
template <class T, class B>
GatedMixture<T, B> gated_by_rows(const Tensor<T, B>& x, const GatedLayer<T, B>& layer) {
  const Index rows = x.size(0) * x.size(1), R = layer.rank(), N = layer.n_experts();
  const std::shared_ptr<GatedByRows<T, B>> state(new GatedByRows<T, B>{
      x, layer, FoldedGate<T, B>(layer.F, layer.scale), linear(x.detach(), layer.A),
      Tensor<Compute<T>, B>::empty({rows}), rows, layer.W.d_in(), layer.W.d_out(), R, N});
  const auto gate = Tensor<T, B>::empty(x.shape().with(-1, N));
  const auto value = gated_forward(*state, gate);
  const auto [y, g] = record({x, layer.F, layer.log_tau}, std::array{value, gate},
                             [state, g = gate.detach()](const auto& G, bool last) {
                               const auto &dy = G[0], &dg = G[1];
                               return dy.defined() ? gated_pullback(*state, g, dy, dg, last)
                                                   : gate_alone_pullback(*state, g, dg);
                             });
  return {y, g};
}

}  // namespace mole::detail
