#pragma once
// What training minimises (eq. 16).

#include <cmath>

#include <mole/ops/arithmetic.hpp>

namespace mole {

/// L = L_D + alpha L_balance (eq. 16).  domain and balance scalars, alpha >= 0.
/// Pullback of G: ddomain = G, dbalance = alpha G. With alpha = 0 the balance is not read at all.
/// Throws ShapeError unless both are scalars, ArgumentError for a negative or infinite alpha.
template <class T, class B>
Tensor<T, B> total_loss(const Tensor<T, B>& domain, const Tensor<T, B>& balance, double alpha) {
  MOLE_CHECK_SHAPE(domain.rank() == 0 && balance.rank() == 0, "total_loss: expected two scalars, got",
                   domain.shape(), "and", balance.shape());
  MOLE_CHECK_ARG(is_finite(alpha) && alpha >= 0, "total_loss: expected alpha >= 0, got", alpha);
  // An infinite balance times 0 would be NaN.
  if (alpha == 0) return domain;
  return add(domain, scale(balance, static_cast<Compute<T>>(alpha)));
}

}  // namespace mole
