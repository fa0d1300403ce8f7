#pragma once
// The mixture of MoLE at a convolution.

#include <mole/ops/arithmetic.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

namespace detail {

/// Pixels [S, H, W, C] as tokens [S, H W, C]; tokens as they are.
template <class T, class B>
Tensor<T, B> as_tokens(const Tensor<T, B>& x) {
  return x.rank() == 4 ? reshape(x, {x.size(0), x.size(1) * x.size(2), x.size(3)}) : x;
}

}  // namespace detail

/// The experts' part added to a convolution's own output (eq. 12-13): y = plain + (g * h) Q^T.
/// plain [S, H, W, d_out]; h [S, L, R], what the experts' down convolutions make of the input, L = H W, or
/// [S, 1, R]; g [S, N] or [S, L, N]; Q [d_out, R]; expert [R]: the gate's column for each rank; y as plain.
/// Composed of operations that have pullbacks.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> spatial_mixture(const Tensor<T, B>& plain, const Tensor<T, B>& h, const Tensor<T, B>& g,
                             const Tensor<T, B>& Q, const Tensor<Index, B>& expert) {
  const Index S = g.size(0), N = g.size(-1), R = Q.size(-1);
  const auto by_rank = transpose(gather(transpose(reshape(g, {-1, N})), expert));
  const auto weighed = mul(h, reshape(by_rank, {S, g.rank() == 3 ? h.size(1) : 1, R}));
  return add(plain, reshape(linear(weighed, Q), plain.shape()));
}

}  // namespace mole
