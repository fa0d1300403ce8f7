#pragma once
// A linear layer whose weight is frozen, however it is stored.

#include <type_traits>

#include <mole/autodiff/record.hpp>
#include <mole/nn/frozen_weight.hpp>
#include <mole/ops/detail/broadcast.hpp>

namespace mole {

/// y = x W^T + c with W and c frozen.  x [.., d_in], W [d_out, d_in], c [d_out] or undefined, y [.., d_out].
/// Pullback of G: dx = G W.    Throws ShapeError when d_in or d_out differ.
template <class T, class B>
Tensor<T, B> frozen_linear(const Tensor<T, B>& x, const std::type_identity_t<FrozenWeight<T, B>>& W,
                           const std::type_identity_t<Tensor<T, B>>& c = {}) {
  MOLE_CHECK_SHAPE(x.rank() >= 1 && x.size(-1) == W.d_in(),
                   "frozen_linear: expected x [.., d_in] and W [d_out, d_in], got", x.shape(), "and",
                   W.shape());
  const Index d_out = W.d_out(), rows = x.shape().size(0, x.rank() - 1);
  MOLE_CHECK_SHAPE(!c.defined() || c.shape() == Shape{d_out}, "frozen_linear: expected a bias of shape",
                   Shape{d_out}, "got", c.defined() ? c.shape() : Shape{});
  const auto y = Tensor<T, B>::empty(x.shape().with(-1, d_out));
  if (c.defined()) B::for_rows(rows, d_out, detail::RepeatRow<T>{y.data(), c.data(), d_out});
  W.forward(rows, x.data(), c.defined(), y.data());
  return record({x}, y, [x = x.place(), W, rows](const auto& G) {
    const GradTarget target(x);
    W.backward(rows, G.data(), target.beta == 1, target.tensor.data());
    return target.tensor;
  });
}

}  // namespace mole
