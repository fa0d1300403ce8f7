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
#  include <vector>

#  include <mole/backends/cpu_block.hpp>

namespace mole::detail {

/// The weights of a convolution, in panels of outputs, in the order in which they are read: [taps, channels, lanes].
/// Lanes beyond the last output are 0.
template <class T>
struct ConvWeights {
  const Convolution<T>& work;
  Panels<T> panels;
  Index depth;
  std::vector<T> W, start;

  explicit ConvWeights(const Convolution<T>& of)
      : work(of),
        panels(of.outputs),
        depth(of.kernel_h * of.kernel_w * of.channels),
        W(static_cast<std::size_t>(depth * panels.padded())),
        start(static_cast<std::size_t>(panels.padded())) {
    for (Index o = 0; of.c && o < of.outputs; ++o) start[static_cast<std::size_t>(o)] = of.c[o];
    for (Index p = 0; p < panels.count; ++p) pack(p);
  }

  /// The first output of panel p, and its weights.
  Index first(Index p) const { return panels.first(p) * Panels<T>::lanes; }
  const T* weights(Index p) const { return W.data() + first(p) * depth; }

 private:
  void pack(Index p) {
    const auto& c = work;
    const auto& at = c.W_steps;
    const Index begin = first(p), row = panels.size(p) * Panels<T>::lanes, there = panels.width(p);
    T* to = W.data() + begin * depth;
    for (Index i = 0; i < c.kernel_h; ++i)
      for (Index j = 0; j < c.kernel_w; ++j)
        for (Index k = 0; k < c.channels; ++k, to += row) {
          const T* const from = c.W + begin * at.first + i * at.row + j * at.column + k * at.last;
          for (Index o = 0; o < there; ++o) to[o] = from[o * at.first];
        }
  }
};

/// Rows of one image's output, from `first` to `last`: the pixels that they read with the zeros around them, and then
/// one row after another.
template <class T>
void conv_band(const ConvWeights<T>& weights, Index image, Index first, Index last) {
  const auto& c = weights.work;
  const Index C = c.channels, wide = (c.out_width - 1) * c.stride + c.kernel_w,
              high = (last - 1 - first) * c.stride + c.kernel_h, top = first * c.stride - c.top;
  std::vector<T> padded(static_cast<std::size_t>(wide * high * C));
  const T* const from = c.x + image * c.height * c.width * C;
  const Index begin = std::max<Index>(0, -c.left), end = std::min(c.width, wide - c.left);
  for (Index i = std::max<Index>(0, -top); begin < end && i < std::min(high, c.height - top); ++i) {
    const T* const row = from + (top + i) * c.width * C;
    std::copy(row + begin * C, row + end * C, padded.data() + (i * wide + begin + c.left) * C);
  }
  for (Index p = 0; p < weights.panels.count; ++p)
    for (Index h = first; h < last; ++h)
      block_rows(Block<T>{padded.data() + (h - first) * c.stride * wide * C, c.stride * C, wide * C, 1,
                          weights.weights(p), c.kernel_h, c.kernel_w * C,
                          c.c ? weights.start.data() + weights.first(p) : nullptr,
                          c.y + image * c.y_steps.first + h * c.y_steps.row + weights.first(p),
                          c.y_steps.column, weights.panels.width(p), T(1), c.add},
                 c.out_width, weights.panels.size(p));
}

/// See Convolution. Threads share the images and bands of their rows; every output is one sum in a fixed order.
template <class T>
void host_convolve(const Convolution<T>& work) {
  if (work.images * work.out_height * work.out_width * work.outputs == 0) return;
  const ConvWeights<T> weights(work);
  const Index rows = std::max<Index>(1, 256 / work.out_width), bands = (work.out_height + rows - 1) / rows;
  [[maybe_unused]] const Index products =
      work.images * work.out_height * work.out_width * work.outputs * weights.depth;
  FirstException thrown;
  MOLE_OMP("omp parallel for schedule(static) if (products > (1 << 18))")
  for (Index i = 0; i < work.images * bands; ++i) {
    const Index first = i % bands * rows;
    try {
      conv_band(weights, i / bands, first, std::min(work.out_height, first + rows));
    } catch (...) {
      thrown.keep();
    }
  }
  thrown.rethrow();
}

}  // namespace mole::detail

#endif
