#pragma once
// What training minimises (eq. 16), and the check that it is still a number.

#include <cmath>
#include <vector>

#include <mole/ops/arithmetic.hpp>

namespace mole {

/// L = L_D + alpha L_balance (eq. 16).  domain and balance scalars, alpha >= 0.
/// Pullback of G: ddomain = G, dbalance = alpha G. With alpha = 0 the balance is not read at all.
/// Throws ShapeError unless both are scalars, ArgumentError for a negative or infinite alpha.
template <class T, class B>
Tensor<T, B> total_loss(const Tensor<T, B>& domain, const Tensor<T, B>& balance, double alpha) {
  MOLE_CHECK_SHAPE(domain.rank() == 0 && balance.rank() == 0, "total_loss: expected two scalars, got",
                   domain.shape(), "and", balance.shape());
  MOLE_CHECK_ARG(std::isfinite(alpha) && alpha >= 0, "total_loss: expected alpha >= 0, got", alpha);
  // An infinite balance times 0 would be NaN.
  if (alpha == 0) return domain;
  return add(domain, scale(balance, static_cast<Compute<T>>(alpha)));
}

namespace detail {

/// Number of elements of a chunk that are NaN or infinite.
template <class T>
struct NonFiniteRow {
  using C = Compute<T>;
  const T* x;
  C* count;
  Index n, chunk;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index first = row.index() * chunk, left = n - first;
    const T* const from = x + first;
    C* const to = count + row.index();
    const C found = row.sum(left < chunk ? left : chunk,
                            [=](Index j) { return from[j] - from[j] == C(0) ? C(0) : C(1); });
    row.each(1, [=](Index) { *to = found; });
  }
};

}  // namespace detail

/// Whether each element of each tensor is finite; undefined tensors are passed over. Waits for the device.
template <class T, class B>
bool all_finite(const std::vector<Tensor<T, B>>& tensors) {
  constexpr Index chunk = 4096;
  for (const auto& x : tensors) {
    if (!x.defined()) continue;
    const auto count = Tensor<Compute<T>, B>::empty({(x.size() + chunk - 1) / chunk});
    B::for_rows(count.size(), chunk, detail::NonFiniteRow<T>{x.data(), count.data(), x.size(), chunk});
    for (const auto c : count.to_host())
      if (c != 0) return false;
  }
  return true;
}

/// The value of a loss, after making sure that training can go on from it. Waits for the device.
/// Throws NumericError naming the step and the value if it is NaN or infinite, ShapeError unless it has one
/// element.
template <class T, class B>
Compute<T> check_finite(const Tensor<T, B>& loss, Index step) {
  const Compute<T> value = loss.item();
  MOLE_CHECK_AS(
      NumericError, std::isfinite(value), "the loss is", value, "at step", step,
      "; the last checkpoint before it is still good: go on from there with a smaller learning rate, or clip "
      "the gradients");
  return value;
}

}  // namespace mole
