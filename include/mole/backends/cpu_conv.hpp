#pragma once
// Convolution on the CPU without patches. With channels last, the pixels under one row of a kernel lie side by side in
// an image that has its zeros around it: such a row of a patch is read where it is. A BLAS would need all patches in
// memory, and would copy them once more.

#include <algorithm>

#include <mole/backends/cpu_exceptions.hpp>
#include <mole/core/kernels/conv.hpp>
#include <mole/core/omp.hpp>

namespace mole::detail {

/// Where something lies that has four indices: distances between neighbours along each, in elements.
struct ConvSteps {
  Index first, row, column, last;
};

/// y(s, h, w, o) = c[o] + sum over i, j, k of W(o, i, j, k) x[s, h stride + i - top, w stride + j - left, k], added to
/// y where `add` is set; x is 0 outside. A kernel without taps gives c.
///   x [images, height, width, channels]; c [outputs] or null: 0; W and y lie as their steps say, the outputs of a pixel
///   of y side by side
template <class T>
struct SteppedConvolution {
  const T *x, *W, *c;
  T* y;
  Index images, height, width, channels, out_height, out_width, outputs;
  Index kernel_h, kernel_w, stride, top, left;
  ConvSteps W_steps, y_steps;
  bool add;
};

}  // namespace mole::detail

#ifdef MOLE_COMPILED

namespace mole::detail {

/// See below. In mole::compiled, so that its users need not read Eigen.
template <class T>
void host_convolve(const SteppedConvolution<T>& work);

}  // namespace mole::detail

#else

#  include <algorithm>
#  include <cstddef>
#  include <cstring>
#  include <vector>

#  include <mole/backends/cpu_block.hpp>

namespace mole::detail {

/// The weights of one tap, [channels, width] with zeros beyond the outputs that there are. W is where the first output
/// has them.
template <class T>
void pack_tap(const T* W, const ConvSteps& at, Index channels, Index there, Index width, T* to) {
  constexpr Index lanes = Panels<T>::lanes;
  for (Index v = 0; v < width; v += lanes) {
    const T* const from = W + v * at.first;
    const Index count = std::clamp<Index>(there - v, 0, lanes);
    Index k = 0;
    if (at.last == 1 && count == lanes)
      for (; k + lanes <= channels; k += lanes)
        transpose_square(from + k, at.first, to + k * width + v, width);
    for (; k < channels; ++k) {
      T* const row = to + k * width + v;
      for (Index o = 0; o < count; ++o) row[o] = from[o * at.first + k * at.last];
      std::fill(row + count, row + lanes, T(0));
    }
  }
}

/// The bias of each output, and the weights in panels of outputs in the order in which they are read, [taps, channels,
/// lanes] each. Lanes beyond the last output are 0.
template <class T>
std::vector<T> pack_weights(const SteppedConvolution<T>& c, const Panels<T>& panels) {
  const Index wide = panels.registers * Panels<T>::lanes, depth = c.kernel_h * c.kernel_w * c.channels;
  std::vector<T> packed(static_cast<std::size_t>((1 + depth) * wide));
  for (Index o = 0; o < wide; ++o) packed[static_cast<std::size_t>(o)] = c.c && o < c.outputs ? c.c[o] : T(0);
  T* const weights = packed.data() + wide;
  MOLE_OMP("omp parallel for schedule(static) if (depth * wide > (1 << 18))")
  for (Index p = 0; p < panels.count; ++p) {
    const Index begin = panels.first(p) * Panels<T>::lanes, width = panels.size(p) * Panels<T>::lanes;
    T* to = weights + begin * depth;
    for (Index i = 0; i < c.kernel_h; ++i)
      for (Index j = 0; j < c.kernel_w; ++j, to += c.channels * width)
        pack_tap(c.W + begin * c.W_steps.first + i * c.W_steps.row + j * c.W_steps.column, c.W_steps,
                 c.channels, panels.width(p), width, to);
  }
  return packed;
}

/// Weights of an output above which a panel of them is read in parts, and those of a part.
inline constexpr Index most_depth = 4096, depth_of_part = 1024;

/// Rows of one image's output, from `first` to `last`: the pixels that they read with the zeros around them, and then
/// one row after another.
template <class T>
void conv_band(const SteppedConvolution<T>& c, const Panels<T>& panels, const T* packed, Index image,
               Index first, Index last) {
  const Index C = c.channels, wide = (c.out_width - 1) * c.stride + c.kernel_w,
              high = (last - 1 - first) * c.stride + c.kernel_h, top = first * c.stride - c.top;
  // At least one value: a kernel without taps (PullbackPhase) reads none, but steps from pixel to pixel all the same.
  std::vector<T> padded(static_cast<std::size_t>(std::max<Index>(1, wide * high * C)));
  const T* const from = c.x + image * c.height * c.width * C;
  const Index begin = std::max<Index>(0, -c.left), end = std::min(c.width, wide - c.left);
  for (Index i = std::max<Index>(0, -top); begin < end && i < std::min(high, c.height - top); ++i)
    std::memcpy(padded.data() + (i * wide + begin + c.left) * C, from + ((top + i) * c.width + begin) * C,
                static_cast<std::size_t>((end - begin) * C) * sizeof(T));
  const Index length = c.kernel_w * C, depth = c.kernel_h * length;
  const T* const weights = packed + panels.registers * Panels<T>::lanes;
  // A panel that is read once for some pixels should come from a near cache. One that is too large for that is read in
  // parts, each for all pixels of the band.
  const bool whole = depth <= most_depth;
  const Index rows = whole ? c.kernel_h : 1, part = whole ? length : depth_of_part;
  for (Index p = 0; p < panels.count; ++p) {
    const Index output = panels.first(p) * Panels<T>::lanes, width = panels.size(p) * Panels<T>::lanes;
    for (Index i = 0; i < std::max<Index>(1, c.kernel_h); i += std::max<Index>(1, rows))
      for (Index r = 0; r < std::max<Index>(1, length); r += std::max<Index>(1, part)) {
        const bool begins = i == 0 && r == 0;
        for (Index h = first; h < last; ++h)
          block_rows(Block<T>{padded.data() + ((h - first) * c.stride + i) * wide * C + r, c.stride * C,
                              wide * C, 1, weights + output * depth + (i * length + r) * width, rows,
                              std::min(part, length - r), c.c && begins ? packed + output : nullptr,
                              c.y + image * c.y_steps.first + h * c.y_steps.row + output, c.y_steps.column,
                              panels.width(p), T(1), c.add || !begins},
                     c.out_width, panels.size(p));
      }
  }
}

/// See SteppedConvolution. Threads share the images and bands of their rows; every output is one sum in a fixed order.
template <class T>
void host_convolve(const SteppedConvolution<T>& work) {
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

namespace mole::detail {

/// One direction of the pullback of a stride, for the input positions first, first + stride, ..: those are met by every
/// stride-th tap alone, the last of them at tap `tap`, and see G through a kernel of `taps` taps after `before` zeros.
struct PullbackPhase {
  Index count, tap, taps, before;

  PullbackPhase(Index first, Index extent, Index stride, Index kernel, Index padding)
      : count((extent - first + stride - 1) / stride),
        tap((first + padding) % stride),
        taps(kernel > tap ? (kernel - tap + stride - 1) / stride : 0),
        before(taps - 1 - (first + padding) / stride) {
    tap += (taps - 1) * stride;
  }
};

/// y = the convolution of x, by one pass over it.
template <class T>
void convolve_forward(const Convolution<T>& work) {
  const auto& e = work.extents;
  const Index C = e.channels, O = e.outputs;
  host_convolve(SteppedConvolution<T>{
      work.x, work.W, work.c, work.y, e.images, e.height, e.width, C, e.out_height, e.out_width, O,
      e.kernel_h, e.kernel_w, e.stride, e.top, e.left, ConvSteps{e.taps() * C, e.kernel_w * C, C, 1},
      ConvSteps{e.out_height * e.out_width * O, e.out_width * O, O, 1}, work.add});
}

/// dx = G through the kernel turned around: for a stride s, s s convolutions of G.
template <class T>
void convolve_pullback(const Convolution<T>& work) {
  const auto& e = work.extents;
  const Index C = e.channels, O = e.outputs, s = e.stride;
  for (Index i = 0; i < std::min(s, e.height); ++i)
    for (Index j = 0; j < std::min(s, e.width); ++j) {
      const PullbackPhase h(i, e.height, s, e.kernel_h, e.top), w(j, e.width, s, e.kernel_w, e.left);
      const bool none = h.taps == 0 || w.taps == 0;
      const T* const last = none ? work.W : work.W + (h.tap * e.kernel_w + w.tap) * C;
      host_convolve(
          SteppedConvolution<T>{work.y, last, nullptr, work.x + (i * e.width + j) * C, e.images, e.out_height,
                                e.out_width, O, h.count, w.count, C, none ? 0 : h.taps, none ? 0 : w.taps, 1,
                                h.before, w.before, ConvSteps{1, -s * e.kernel_w * C, -s * C, e.taps() * C},
                                ConvSteps{e.height * e.width * C, s * e.width * C, s * C, 1}, work.add});
    }
}

}  // namespace mole::detail
