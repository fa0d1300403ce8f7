#pragma once
// Checks that training is still on numbers: of a loss, and of parameters before they are saved.

#include <cmath>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>

namespace mole {

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
    const C found =
        row.sum(left < chunk ? left : chunk, [=](Index j) { return is_finite(C(from[j])) ? C(0) : C(1); });
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
      NumericError, is_finite(value), "the loss is", value, "at step", step,
      "; the last checkpoint before it is still good: go on from there with a smaller learning rate, or clip "
      "the gradients");
  return value;
}

}  // namespace mole
