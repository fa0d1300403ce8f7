#pragma once
// RMS norm of rows, and of the sum of two, in one kernel, which a backend may offer beside the primitives of its
// concept:
//   static bool rms_norm_forward(const RmsNormForward<T>&)   false, before it has done anything, for what it is not made for
// The op is made of row functors there, and where it is missing.

#include <concepts>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// y = w x / size, size = sqrt(mean(x^2) + eps) of each row; where d is given, of x + d, rounded to T, which `sum`
/// gets.
///   x, d, sum, y [rows, n]; w [n]; size [rows]; d and sum null: of x itself
template <class T>
struct RmsNormForward {
  const T *x, *d, *w;
  T *sum, *y;
  Compute<T>* size;
  Index rows, n;
  Compute<T> eps;
};

namespace detail {

/// Whether the backend has it for T.
template <class T, class B>
constexpr bool has_rms_norm = requires(const RmsNormForward<T>& forward) {
  { B::rms_norm_forward(forward) } -> std::same_as<bool>;
};

/// By the backend's own way; false, and nothing is done, where it has none that takes these.
template <class B, class T>
bool by_rms_norm(const RmsNormForward<T>& a) {
  if constexpr (has_rms_norm<T, B>) return B::rms_norm_forward(a);
  return false;
}

}  // namespace detail

}  // namespace mole
