#pragma once
// Group norm in one call each way, which a backend may offer beside the primitives of its concept:
//   static void group_norm_forward(const GroupNormForward<T>&)
//   static void group_norm_backward(const GroupNormBackward<T>&)
// The op is made of row functors where one of the two is missing.

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// y = w (x - mean) / deviation + c, the deviation being sqrt(variance + eps).
///   x, y [images, pixels, channels]; w, c [channels]; mean, deviation [images, groups]: of each group of neighbouring
///   channels of an image
template <class T>
struct GroupNormForward {
  const T *x, *w, *c;
  T* y;
  Compute<T>*mean, *deviation;
  Index images, pixels, channels, groups;
  Compute<T> eps;
};

/// Its pullback from the gradient G of y, with what the forward pass left.
///   dx as x, or null, added to where `add` is set; dw, dc [images, channels] or null: each image's part of their
///   gradients
template <class T>
struct GroupNormBackward {
  const T *x, *w, *G;
  const Compute<T>*mean, *deviation;
  T *dx, *dw, *dc;
  Index images, pixels, channels, groups;
  bool add;
};

namespace detail {

/// Whether the backend has both for T.
template <class T, class B>
constexpr bool has_group_norm = requires(const GroupNormForward<T>& forward,
                                         const GroupNormBackward<T>& backward) {
  B::group_norm_forward(forward);
  B::group_norm_backward(backward);
};

}  // namespace detail

}  // namespace mole
