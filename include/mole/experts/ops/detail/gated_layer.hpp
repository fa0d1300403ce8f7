#pragma once
// What a gated mixture is made of, and what comes out.

#include <mole/experts/ops/gate_softmax.hpp>
#include <mole/experts/ops/mixture.hpp>

namespace mole {

/// A linear layer with its canonical experts and the token gate that reads them.
template <class T, class B>
struct GatedLayer {
  FrozenWeight<T, B> W;           ///< [d_out, d_in]
  Tensor<T, B> c;                 ///< [d_out] or undefined
  Tensor<T, B> A, Q;              ///< [R, d_in], [d_out, R]
  Tensor<Index, B> expert;        ///< [R], ascending: the gate's column of each rank
  Tensor<T, B> F, log_tau, keep;  ///< the gate: [R, N]; []; [N] of 0 and 1 or undefined
  GateScale<T, B> scale = {};     ///< of the gate's input, or undefined

  Index rank() const { return A.size(0); }
  Index n_experts() const { return F.size(1); }
};

/// A mixture with the gate that made it.
template <class T, class B>
struct GatedMixture {
  Tensor<T, B> y;  ///< [S, L, d_out]
  Tensor<T, B> g;  ///< [S, L, N]
};

namespace detail {

/// Throws ShapeError unless a layer's operands fit each other and x.
template <class T, class B>
void check_gated(const Tensor<T, B>& x, const GatedLayer<T, B>& l) {
  MOLE_CHECK_SHAPE(x.rank() == 3 && l.A.rank() == 2 && l.F.rank() == 2 && x.size(2) == l.A.size(1),
                   "gated_mixture: expected x [S, L, d_in], A [R, d_in] and F [R, N], got", x.shape(),
                   l.A.shape(), "and", l.F.shape());
  const Shape h = x.shape().with(-1, l.rank());
  check_gate("gated_mixture", h, l.F, l.log_tau, l.keep);
  check_scale("gated_mixture", l.F, l.scale);
  check_mixture("gated_mixture", x, l.W, l.c, h, h.with(-1, l.n_experts()), l.Q, l.expert);
}

}  // namespace detail

}  // namespace mole
