#pragma once
// Gradient clipping.

#include <cmath>
#include <vector>

#include <mole/ops/arithmetic.hpp>

namespace mole {

namespace detail {

/// Sum of the squares of a chunk.
template <class T>
struct SquaresRow {
  using C = Compute<T>;
  const T* x;
  C* total;
  Index n, chunk;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index first = row.index() * chunk, left = n - first;
    const T* const from = x + first;
    C* const to = total + row.index();
    const C squares = row.sum(left < chunk ? left : chunk, [=](Index j) { return from[j] * from[j]; });
    row.each(1, [=](Index) { *to = squares; });
  }
};

}  // namespace detail

/// Scales all gradients by max_norm / (norm + 1e-6) where that is below 1; norm is the length of all of them
/// taken as one vector, and is returned. The numbers of torch.nn.utils.clip_grad_norm_. Parameters without a
/// gradient are passed over. Waits for the device once. Throws ArgumentError unless max_norm > 0,
/// NumericError if the norm is NaN or infinite: the gradients are then as before.
template <class T, class B>
double clip_grad_norm(const std::vector<Tensor<T, B>>& parameters, double max_norm) {
  MOLE_CHECK_ARG(max_norm > 0, "clip_grad_norm: expected max_norm > 0, got", max_norm);
  constexpr Index chunk = 4096;
  auto chunks = [](const Tensor<T, B>& x) { return (x.size() + chunk - 1) / chunk; };
  Index total = 0;
  for (const auto& parameter : parameters)
    if (const auto g = parameter.grad(); g.defined()) total += chunks(g);
  const auto squares = Tensor<Compute<T>, B>::empty({total});
  Index at = 0;
  for (const auto& parameter : parameters) {
    const auto g = parameter.grad();
    if (!g.defined()) continue;
    B::for_rows(chunks(g), chunk, detail::SquaresRow<T>{g.data(), squares.data() + at, g.size(), chunk});
    at += chunks(g);
  }
  double sum = 0;
  for (const auto part : squares.to_host()) sum += static_cast<double>(part);
  const double norm = std::sqrt(sum);
  MOLE_CHECK_AS(NumericError, std::isfinite(norm), "clip_grad_norm: the norm of the gradients is", norm,
                "; lower the learning rate or look for the op that made it");
  const double factor = max_norm / (norm + 1e-6);
  if (factor >= 1) return norm;
  // New tensors: a gradient may share its buffer with another tensor.
  const NoGrad off;
  for (const auto& parameter : parameters)
    if (const auto g = parameter.grad(); g.defined())
      parameter.set_grad(scale(g, static_cast<Compute<T>>(factor)));
  return norm;
}

}  // namespace mole
