#pragma once
// Gradient clipping.

#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/optim/pieces.hpp>

namespace mole {

namespace detail {

/// A piece of a gradient x, its scaled copy y, and the sum of the squares of x times a factor.
template <class T>
struct ClipPiece {
  const T* x;
  T* y;
  Compute<T>* squares;
  Index size;
};

template <class T>
struct SquaresRow {
  Compute<T> factor;

  template <class Row>
  MOLE_HD void operator()(const Row& row, const ClipPiece<T>& piece) const {
    using C = Compute<T>;
    const T* const x = piece.x;
    C* const to = piece.squares;
    const C by = factor;
    const C squares = row.sum(piece.size, [=](Index j) {
      const C value = by * C(x[j]);
      return value * value;
    });
    row.each(1, [=](Index) { *to = squares; });
  }
};

template <class T>
struct ScaleRow {
  Compute<T> factor;

  template <class Row>
  MOLE_HD void operator()(const Row& row, const ClipPiece<T>& piece) const {
    const T* const x = piece.x;
    T* const y = piece.y;
    const auto by = factor;
    row.each(piece.size, [=](Index j) { y[j] = by * x[j]; });
  }
};

/// The length of all pieces taken as one vector. Squares that overflow are taken anew of smaller numbers.
template <class T, class B>
double length_of_pieces(std::vector<ClipPiece<T>>& pieces) {
  using C = Compute<T>;
  const auto squares = Tensor<C, B>::empty({static_cast<Index>(pieces.size())});
  for (std::size_t i = 0; i < pieces.size(); ++i) pieces[i].squares = squares.data() + i;
  double norm = 0;
  for (const int exponent : {0, std::numeric_limits<C>::min_exponent * 3 / 4}) {
    for_pieces<B>(pieces, SquaresRow<T>{std::ldexp(C(1), exponent)});
    double sum = 0;
    for (const auto part : squares.to_host()) sum += static_cast<double>(part);
    norm = std::ldexp(std::sqrt(sum), -exponent);
    if (is_finite(norm)) break;
  }
  return norm;
}

}  // namespace detail

/// Scales all gradients by max_norm / (norm + 1e-6) where that is below 1; norm is the length of all of them
/// taken as one vector, and is returned. The numbers of torch.nn.utils.clip_grad_norm_. Parameters without a
/// gradient are passed over. Waits for the device once, or twice where squares overflow. Throws ArgumentError unless
/// max_norm > 0, NumericError if the norm is NaN or infinite: the gradients are then as before.
template <class T, class B>
double clip_grad_norm(const std::vector<Tensor<T, B>>& parameters, double max_norm) {
  MOLE_CHECK_ARG(max_norm > 0, "clip_grad_norm: expected max_norm > 0, got", max_norm);
  std::vector<detail::ClipPiece<T>> pieces;
  for (const auto& parameter : parameters)
    if (const auto g = parameter.grad(); g.defined())
      detail::for_each_piece(g.size(), [&](Index first, Index size) {
        pieces.push_back({g.data() + first, nullptr, nullptr, size});
      });
  const double norm = detail::length_of_pieces<T, B>(pieces);
  MOLE_CHECK_AS(NumericError, is_finite(norm), "clip_grad_norm: the norm of the gradients is", norm,
                "; lower the learning rate or look for the op that made it");
  const double factor = max_norm / (norm + 1e-6);
  if (factor >= 1) return norm;
  // New tensors: a gradient may share its buffer with another tensor.
  std::vector<Tensor<T, B>> scaled;
  std::size_t at = 0;
  for (const auto& parameter : parameters)
    if (const auto g = parameter.grad(); g.defined()) {
      scaled.push_back(Tensor<T, B>::empty(g.shape()));
      detail::for_each_piece(g.size(),
                             [&](Index first, Index) { pieces[at++].y = scaled.back().data() + first; });
    }
  detail::for_pieces<B>(pieces, detail::ScaleRow<T>{static_cast<Compute<T>>(factor)});
  std::size_t next = 0;
  for (const auto& parameter : parameters)
    if (parameter.grad().defined()) parameter.set_grad(scaled[next++]);
  return norm;
}

}  // namespace mole
