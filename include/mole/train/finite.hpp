#pragma once
// Checks that training is still on numbers: of a loss, and of parameters before they are saved.

#include <algorithm>
#include <cmath>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>
#include <mole/optim/pieces.hpp>

namespace mole {

namespace detail {

/// Part of a tensor, and where the number of its elements goes that are NaN or infinite.
template <class T>
struct FinitePiece {
  const T* x;
  Compute<T>* count;
  Index size;
};

template <class T>
struct CountNonFinite {
  template <class Row>
  MOLE_HD void operator()(const Row& row, const FinitePiece<T>& piece) const {
    using C = Compute<T>;
    const C found = row.sum(piece.size, [=](Index j) { return is_finite(C(piece.x[j])) ? C(0) : C(1); });
    row.each(1, [=](Index) { *piece.count = found; });
  }
};

}  // namespace detail

/// Whether each element of each tensor is finite; undefined tensors are passed over. Waits for the device once.
template <class T, class B>
bool all_finite(const std::vector<Tensor<T, B>>& tensors) {
  std::vector<detail::FinitePiece<T>> pieces;
  for (const auto& x : tensors)
    if (x.defined())
      detail::for_each_piece(x.size(), [&](Index first, Index size) {
        pieces.push_back({x.data() + first, nullptr, size});
      });
  const auto counts = Tensor<Compute<T>, B>::empty({static_cast<Index>(pieces.size())});
  for (std::size_t i = 0; i < pieces.size(); ++i) pieces[i].count = counts.data() + i;
  detail::for_pieces<B>(pieces, detail::CountNonFinite<T>{});
  const auto found = counts.to_host();
  return std::ranges::all_of(found, [](Compute<T> count) { return count == 0; });
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
