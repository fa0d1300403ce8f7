#pragma once
// The mean squared error.

#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

namespace mole {

/// Mean squared error, a scalar: mean((a - b)^2).  a, b broadcastable.
/// Pullback of G: da = 2 G (a - b) / n, db = -da.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> mse(const Tensor<T, B>& a, const Tensor<T, B>& b) {
  const auto d = sub(a, b);
  return mean(mul(d, d));
}

}  // namespace mole
