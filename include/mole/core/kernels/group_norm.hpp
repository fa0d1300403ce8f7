#pragma once
// Group norm in one call each way, which a backend may offer beside the primitives of its concept:
//   static bool group_norm_forward(const GroupNormForward<T>&)
//   static bool group_norm_backward(const GroupNormBackward<T>&)
// Both return false, before they have done anything, for what they are not made for. The op is made of row functors there,
// and where one of the two is missing.

#include <concepts>

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
  T* dx;
  Compute<T>*dw, *dc;
  Index images, pixels, channels, groups;
  bool add;
};

namespace detail {

/// Whether the backend has both for T.
template <class T, class B>
constexpr bool has_group_norm = requires(const GroupNormForward<T>& forward,
                                         const GroupNormBackward<T>& backward) {
  { B::group_norm_forward(forward) } -> std::same_as<bool>;
  { B::group_norm_backward(backward) } -> std::same_as<bool>;
};

/// By the backend's own way, either direction; false, and nothing is done, where it has none that takes these.
template <class B, class T>
bool by_group_norm(const GroupNormForward<T>& a) {
  if constexpr (has_group_norm<T, B>) return B::group_norm_forward(a);
  return false;
}
template <class B, class T>
bool by_group_norm(const GroupNormBackward<T>& a) {
  if constexpr (has_group_norm<T, B>) return B::group_norm_backward(a);
  return false;
}

}  // namespace detail

}  // namespace mole
