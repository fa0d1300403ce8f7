#pragma once
// Convolution on the CPU without patches. With channels last, the pixels under one row of a kernel lie side by side in
// an image that has its zeros around it: such a row of a patch is read where it is. A BLAS would need all patches in
// memory, and would copy them once more.

#include <mole/backends/cpu_exceptions.hpp>
#include <mole/core/kernels/conv.hpp>
#include <mole/core/omp.hpp>

#ifdef MOLE_COMPILED

namespace mole::detail {

/// See below. In mole::compiled, so that its users need not read Eigen.
template <class T>
void host_convolve(const Convolution<T>& work);

}  // namespace mole::detail

#else

#  include <algorithm>
#  include <cstddef>
#  include <cstring>
#  include <vector>

#  include <mole/backends/cpu_block.hpp>

namespace mole::detail {

/// The bias of each output, and the weights in panels of outputs in the order in which they are read, [taps, channels,
/// lanes] each. Lanes beyond the last output are 0.
template <class T>
std::vector<T> pack_weights(const Convolution<T>& c, const Panels<T>& panels) {
  const Index lanes = Panels<T>::lanes, depth = c.kernel_h * c.kernel_w * c.channels;
  std::vector<T> packed(static_cast<std::size_t>((1 + depth) * panels.registers * lanes));
  T* to = packed.data();
  for (Index o = 0; c.c && o < c.outputs; ++o) to[o] = c.c[o];
  to += panels.registers * lanes;
  const auto& at = c.W_steps;
  for (Index p = 0; p < panels.count; ++p) {
    const Index begin = panels.first(p) * lanes, row = panels.size(p) * lanes, there = panels.width(p);
    for (Index i = 0; i < c.kernel_h; ++i)
      for (Index j = 0; j < c.kernel_w; ++j)
        for (Index k = 0; k < c.channels; ++k, to += row) {
          const T* const from = c.W + begin * at.first + i * at.row + j * at.column + k * at.last;
          for (Index o = 0; o < there; ++o) to[o] = from[o * at.first];
        }
  }
  return packed;
}

/// Rows of one image's output, from `first` to `last`: the pixels that they read with the zeros around them, and then
/// one row after another.
template <class T>
void conv_band(const Convolution<T>& c, const Panels<T>& panels, const T* packed, Index image, Index first,
               Index last) {
  const Index C = c.channels, wide = (c.out_width - 1) * c.stride + c.kernel_w,
              high = (last - 1 - first) * c.stride + c.kernel_h, top = first * c.stride - c.top;
  std::vector<T> padded(static_cast<std::size_t>(wide * high * C));
  const T* const from = c.x + image * c.height * c.width * C;
  const Index begin = std::max<Index>(0, -c.left), end = std::min(c.width, wide - c.left);
  for (Index i = std::max<Index>(0, -top); begin < end && i < std::min(high, c.height - top); ++i)
    std::memcpy(padded.data() + (i * wide + begin + c.left) * C, from + ((top + i) * c.width + begin) * C,
                static_cast<std::size_t>((end - begin) * C) * sizeof(T));
  const Index depth = c.kernel_h * c.kernel_w * C;
  const T* const weights = packed + panels.registers * Panels<T>::lanes;
  for (Index p = 0; p < panels.count; ++p) {
    const Index output = panels.first(p) * Panels<T>::lanes;
    for (Index h = first; h < last; ++h)
      block_rows(
          Block<T>{padded.data() + (h - first) * c.stride * wide * C, c.stride * C, wide * C, 1,
                   weights + output * depth, c.kernel_h, c.kernel_w * C, c.c ? packed + output : nullptr,
                   c.y + image * c.y_steps.first + h * c.y_steps.row + output, c.y_steps.column,
                   panels.width(p), T(1), c.add},
          c.out_width, panels.size(p));
  }
}

/// See Convolution. Threads share the images and bands of their rows; every output is one sum in a fixed order.
template <class T>
void host_convolve(const Convolution<T>& work) {
  if (work.images * work.out_height * work.out_width * work.outputs == 0) return;
  const Panels<T> panels(work.outputs);
  const auto packed = pack_weights(work, panels);
  const Index rows = std::max<Index>(1, 256 / work.out_width), bands = (work.out_height + rows - 1) / rows;
  [[maybe_unused]] const Index products = work.images * work.out_height * work.out_width * work.outputs *
                                          work.kernel_h * work.kernel_w * work.channels;
  FirstException thrown;
  MOLE_OMP("omp parallel for schedule(static) if (products > (1 << 18))")
  for (Index i = 0; i < work.images * bands; ++i) {
    const Index first = i % bands * rows;
    try {
      conv_band(work, panels, packed.data(), i / bands, first, std::min(work.out_height, first + rows));
    } catch (...) {
      thrown.keep();
    }
  }
  thrown.rethrow();
}

}  // namespace mole::detail

#endif
