#pragma once
// Convolution without patches, which a backend may offer beside the primitives of its concept:
//   static void convolve(const Convolution<T>&)
// conv2d multiplies patches where it is missing.

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Where something lies that has four indices: distances between neighbours along each, in elements.
struct ConvSteps {
  Index first, row, column, last;
};

/// y(s, h, w, o) = c[o] + sum over i, j, k of W(o, i, j, k) x[s, h stride + i - top, w stride + j - left, k], added to
/// y where `add` is set; x is 0 outside. A kernel without taps gives c.
///   x [images, height, width, channels]; c [outputs] or null: 0; W and y lie as their steps say, the outputs of a pixel
///   of y side by side
template <class T>
struct Convolution {
  const T *x, *W, *c;
  T* y;
  Index images, height, width, channels, out_height, out_width, outputs;
  Index kernel_h, kernel_w, stride, top, left;
  ConvSteps W_steps, y_steps;
  bool add;
};

namespace detail {

/// Whether the backend convolves T without patches.
template <class T, class B>
constexpr bool has_convolution = requires(const Convolution<T>& work) {
  B::convolve(work);
};

}  // namespace detail

}  // namespace mole
