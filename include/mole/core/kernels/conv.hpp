#pragma once
// The products of a convolution, which a backend may offer beside the primitives of its concept:
//   static bool convolve(const Convolution<T>&)   false for extents or a type that it has no kernel for, before
//                                                 it has done anything
// The op multiplies patches where there is none.

#include <concepts>

#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// The extents of a convolution: x [S, height, width, channels], y [S, out_height, out_width, outputs].
struct ConvExtents {
  Index images, height, width, channels, out_height, out_width, outputs, kernel_h, kernel_w, stride, top,
      left;

  Index taps() const { return kernel_h * kernel_w; }
  Index in_rows() const { return images * height * width; }
  Index out_rows() const { return images * out_height * out_width; }
  auto operator<=>(const ConvExtents&) const = default;
};

/// Which of a convolution's three products: y of x and W, dx of G and W, dW of x and G.
enum class ConvProduct { forward, data, weights };

/// One product, added to what is there where `add` is set. x, and G as y, of ConvExtents' shapes; W [outputs, kernel_h,
/// kernel_w, channels]. The product's own result is written, the other two are read.
template <class T>
struct Convolution {
  ConvProduct product;
  ConvExtents extents;
  T *x, *W, *y;
  const T* c;  ///< [outputs]: what y has on top, or null; of the forward product alone
  bool add;
};

namespace detail {

/// Whether the backend has convolutions of its own for T.
template <class T, class B>
constexpr bool has_convolution = requires(const Convolution<T>& convolution) {
  { B::convolve(convolution) } -> std::same_as<bool>;
};

/// The backend's own kernel, where it has one for this product; false otherwise.
template <class T, class B>
bool convolve(ConvProduct product, const ConvExtents& extents, const T* x, const T* W, const T* y, const T* c,
              bool add) {
  if constexpr (has_convolution<T, B>)
    return B::convolve(
        Convolution<T>{product, extents, const_cast<T*>(x), const_cast<T*>(W), const_cast<T*>(y), c, add});
  else
    return false;
}

}  // namespace detail

}  // namespace mole
