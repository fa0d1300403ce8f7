#pragma once
// Images as CLIP's vision tower takes them.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <mole/ops/arithmetic.hpp>
#include <mole/ops/resize.hpp>

namespace mole {

/// How a CLIP's images are prepared; the defaults are OpenAI's, which OpenCLIP kept.
struct ClipImageOptions {
  Index resize = 224;  ///< the shorter side after resizing
  Index crop_height = 224, crop_width = 224;
  std::array<double, 3> mean{0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> deviation{0.26862954, 0.26130258, 0.27577711};
};

namespace detail {

/// y[i, c] = (x[i, c] - mean[c]) / deviation[c].
template <class T>
struct NormalisePixel {
  const T* x;
  T* y;
  std::array<double, 3> mean, deviation;
  MOLE_HD void operator()(Index i) const {
    const auto c = static_cast<std::size_t>(i % 3);
    y[i] = (x[i] - static_cast<Compute<T>>(mean[c])) / static_cast<Compute<T>>(deviation[c]);
  }
};

template <class T, class B>
Tensor<T, B> normalised_pixels(const Tensor<T, B>& x, const ClipImageOptions& options) {
  const auto y = Tensor<T, B>::empty(x.shape());
  B::for_each(x.size(), NormalisePixel<T>{x.data(), y.data(), options.mean, options.deviation});
  return record({x}, y, [deviation = options.deviation](const auto& G) {
    const auto dx = Tensor<T, B>::empty(G.shape());
    B::for_each(G.size(), NormalisePixel<T>{G.data(), dx.data(), {0, 0, 0}, deviation});
    return dx;
  });
}

/// Pillow's resizing of one axis: rounded to 8 bits.  x [outer, in, inner], result [outer, out, inner]
inline std::vector<std::uint8_t> resize_bytes(const std::vector<std::uint8_t>& x, Index outer, Index in,
                                              Index inner, Index out) {
  const BicubicFilter filter(in, out);
  std::vector<std::uint8_t> y(static_cast<std::size_t>(outer * out * inner));
  for (Index o = 0; o < out; ++o) {
    const Index first = filter.first(o), last = filter.last(o);
    double total = 0;
    for (Index j = first; j < last; ++j) total += filter.weight(o, j);
    for (Index i = 0; i < outer; ++i)
      for (Index k = 0; k < inner; ++k) {
        double sum = 0;
        for (Index j = first; j < last; ++j)
          sum += filter.weight(o, j) / total * x[static_cast<std::size_t>((i * in + j) * inner + k)];
        y[static_cast<std::size_t>((i * out + o) * inner + k)] =
            static_cast<std::uint8_t>(std::clamp(std::floor(sum + 0.5), 0.0, 255.0));
      }
  }
  return y;
}

}  // namespace detail

/// Pixels of [0, 1] as the vision tower takes them, with a gradient: resized to `size` x `size` without
/// rounding, minus the mean, over the deviation.  x [S, H, W, 3], y [S, size, size, 3].
/// Pullback: those of resize_bicubic, sub and mul.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> clip_prepare(const Tensor<T, B>& x, Index size, const ClipImageOptions& options = {}) {
  MOLE_CHECK_SHAPE(x.rank() == 4 && x.size(3) == 3, "clip_prepare: expected pixels [S, H, W, 3], got",
                   x.shape());
  return detail::normalised_pixels(resize_bicubic(x, size, size), options);
}

/// An image of bytes as transformers' processor prepares it: the shorter side resized, rounded to bytes after
/// each axis, the middle cropped, / 255, minus the mean, over the deviation.  rgb [height, width, 3];
/// the result [1, crop_height, crop_width, 3].
/// Throws ShapeError for another number of bytes, or a crop larger than the resized image.
template <class T, class B>
Tensor<T, B> clip_process(const std::vector<std::uint8_t>& rgb, Index height, Index width,
                          const ClipImageOptions& options = {}) {
  MOLE_CHECK_SHAPE(height > 0 && width > 0 && static_cast<Index>(rgb.size()) == height * width * 3,
                   "clip_process: expected", height, "x", width, "x 3 bytes, got", rgb.size());
  MOLE_CHECK_ARG(options.resize > 0, "clip_process: expected a positive size, got", options.resize);
  const Index shorter = std::min(height, width);
  const auto scaled = [&](Index side) {
    return side == shorter ? options.resize : options.resize * side / shorter;
  };
  const Index H = scaled(height), W = scaled(width);
  MOLE_CHECK_SHAPE(options.crop_height > 0 && options.crop_width > 0 && options.crop_height <= H &&
                       options.crop_width <= W,
                   "clip_process: a crop of", options.crop_height, "x", options.crop_width,
                   "does not fit into the resized image,", H, "x", W);
  auto bytes = width == W ? rgb : detail::resize_bytes(rgb, height, width, 3, W);
  if (height != H) bytes = detail::resize_bytes(bytes, 1, height, W * 3, H);
  const Index top = (H - options.crop_height) / 2, left = (W - options.crop_width) / 2;
  std::vector<T> pixels;
  for (Index h = 0; h < options.crop_height; ++h)
    for (Index w = 0; w < options.crop_width; ++w)
      for (Index c = 0; c < 3; ++c)
        pixels.push_back(
            static_cast<T>(bytes[static_cast<std::size_t>(((top + h) * W + left + w) * 3 + c)] / 255.0));
  return detail::normalised_pixels(
      Tensor<T, B>::from({1, options.crop_height, options.crop_width, 3}, pixels), options);
}

}  // namespace mole
