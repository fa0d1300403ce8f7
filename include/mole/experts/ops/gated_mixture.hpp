#pragma once
// Layers with their experts and their token gates as one op, for gates that read their own layer. A backend
// with the gate's kernels goes from h to the gated h in one launch, and back in two, for several layers that
// read the same input at once; elsewhere it goes by chunks of tokens, so that beside h, g and
// the gate's slopes nothing as long as the batch is stored.

#include <array>
#include <memory>
#include <vector>

#include <mole/experts/ops/detail/gated_by_chunks.hpp>
#include <mole/experts/ops/detail/gated_by_kernels.hpp>
#include <mole/experts/ops/detail/gated_by_rows.hpp>

namespace mole {

namespace detail {

/// See gated_mixture; without the kernels of a gate.
template <class T, class B>
GatedMixture<T, B> gated_without_kernels(const Tensor<T, B>& x, const GatedLayer<T, B>& layer) {
  const Index rows = x.size(0) * x.size(1), R = layer.rank(), N = layer.n_experts();
  const std::shared_ptr<GatedOperands<T, B>> state(new GatedOperands<T, B>{
      x, layer, FoldedGate<T, B>(layer.F, layer.scale), Tensor<T, B>::empty(x.shape().with(-1, R)),
      Tensor<Compute<T>, B>::empty({rows}), rows, layer.W.d_in(), layer.W.d_out(), R, N});
  const auto gate = Tensor<T, B>::empty(x.shape().with(-1, N));
  Tensor<T, B> value;
  if constexpr (has_chunks<T, B>)
    value = gated_forward_by_chunks(*state, gate);
  else
    value = gated_forward_by_rows(*state, gate);
  state->x = x.place();
  const auto [y, g] = record({x, layer.F, layer.log_tau}, std::array{value, gate},
                             [state, g = gate.detach()](const auto& G, bool last) {
                               const auto &dy = G[0], &dg = G[1];
                               if (!dy.defined()) return gate_alone_pullback(*state, g, dg);
                               if constexpr (has_chunks<T, B>)
                                 return gated_pullback_by_chunks(*state, g, dy, dg);
                               else
                                 return gated_pullback_by_rows(*state, g, dy, dg, last);
                             });
  return {y, g};
}

}  // namespace detail

/// For each of some layers with the common input x, with h = x A^T: g = gate_softmax(h, F, log_tau, keep, scale) and
/// y = mixture(x, W, c, h, g, Q, expert), operands as in these two, A [R, d_in]. A, Q, W and c are frozen.
/// Layers of the same extents whose A and Q are adjacent take as few launches as one.
/// Pullback of the gradients G of y and U of g, D = G Q: dg_i = sum over expert i's columns of D * h + U_i;
/// dh = g * D + the dv of gate_softmax for that dg, as are dF and dlog_tau; dx = dh A + G W, summed over the
/// layers. A layer of which neither y nor g was read gets no dF and no dlog_tau.
/// Throws ShapeError.
template <class T, class B>
std::vector<GatedMixture<T, B>> gated_mixtures(const Tensor<T, B>& x,
                                               const std::vector<GatedLayer<T, B>>& layers) {
  for (const auto& layer : layers) detail::check_gated(x, layer);
  if constexpr (detail::has_gate_kernels<T, B>)
    if (detail::fit_together(layers)) return detail::gated_by_kernels(x, layers);
  if (layers.size() == 1) return {detail::gated_without_kernels(x, layers.front())};
  std::vector<GatedMixture<T, B>> results;
  for (const auto& layer : layers) results.push_back(gated_mixtures(x, {layer}).front());
  return results;
}

/// The same for one layer.
template <class T, class B>
GatedMixture<T, B> gated_mixture(const Tensor<T, B>& x, const GatedLayer<T, B>& layer) {
  if constexpr (detail::has_gate_kernels<T, B>) {
    return gated_mixtures(x, {layer}).front();
  } else {
    detail::check_gated(x, layer);
    return detail::gated_without_kernels(x, layer);
  }
}

}  // namespace mole
