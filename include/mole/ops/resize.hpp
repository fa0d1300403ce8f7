#pragma once
// Images brought to another size: nearest neighbour, bicubic, and cropped. Channels are last.

#include <mole/ops/matmul.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

namespace detail {

/// One output pixel: the channels of the input pixel below it.
template <class T>
struct NearestRow {
  const T* x;
  T* y;
  Index height, width, out_height, out_width, channels;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index w = row.index() % out_width, h = row.index() / out_width % out_height,
                s = row.index() / out_width / out_height;
    const T* const from =
        x + ((s * height + h * height / out_height) * width + w * width / out_width) * channels;
    T* const to = y + row.index() * channels;
    row.each(channels, [=](Index c) { to[c] = from[c]; });
  }
};

/// One input pixel: the sum of G over the output pixels above it.
template <class T>
struct NearestPullbackRow {
  using C = Compute<T>;
  const T* g;
  T* dx;
  Index height, width, out_height, out_width, channels;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index w = row.index() % width, h = row.index() / width % height, s = row.index() / width / height;
    const Index top = first(h, height, out_height), bottom = first(h + 1, height, out_height),
                left = first(w, width, out_width), right = first(w + 1, width, out_width);
    const T* const G = g + s * out_height * out_width * channels;
    T* const to = dx + row.index() * channels;
    const Index step = channels, line = out_width;
    row.each(channels, [=](Index c) {
      C total = 0;
      for (Index i = top; i < bottom; ++i)
        for (Index j = left; j < right; ++j) total += C(G[(i * line + j) * step + c]);
      to[c] = total;
    });
  }
  /// The first output that reads input i or a later one.
  MOLE_HD static Index first(Index i, Index in, Index out) { return (i * out + in - 1) / in; }
};

/// Pillow's bicubic filter (a = -0.5) from `in` pixels to `out`. Where an image shrinks, the filter is as
/// much wider: that is the antialiasing.
struct BicubicFilter {
  double step, wide;
  Index in;

  BicubicFilter(Index from, Index to)
      : step(static_cast<double>(from) / static_cast<double>(to)), wide(step > 1 ? step : 1), in(from) {}

  MOLE_HD double center(Index o) const { return step * (static_cast<double>(o) + 0.5); }
  /// The inputs [first, last) that output o reads.
  MOLE_HD Index first(Index o) const {
    const Index i = static_cast<Index>(center(o) - 2 * wide + 0.5);
    return i > 0 ? i : 0;
  }
  MOLE_HD Index last(Index o) const {
    const Index i = static_cast<Index>(center(o) + 2 * wide + 0.5);
    return i < in ? i : in;
  }
  /// How much input i counts for output o, before the weights are brought to a sum of 1.
  MOLE_HD double weight(Index o, Index i) const {
    constexpr double a = -0.5;
    const double offset = (static_cast<double>(i) + 0.5 - center(o)) / wide,
                 x = offset < 0 ? -offset : offset;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
  }
};

/// to[o, i] = the weight of input i for output o.
template <class T>
struct BicubicRow {
  BicubicFilter filter;
  T* to;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const BicubicFilter f = filter;
    const Index o = row.index(), begin = f.first(o), end = f.last(o);
    T* const out = to + o * f.in;
    const double total = row.sum(end - begin, [=](Index k) { return f.weight(o, begin + k); });
    row.each(f.in, [=](Index i) {
      const double value = i < begin || i >= end ? 0.0 : f.weight(o, i) / total;
      out[i] = static_cast<Compute<T>>(value);
    });
  }
};

/// The weights [out, in].
template <class T, class B>
Tensor<T, B> bicubic_matrix(Index in, Index out) {
  const auto matrix = Tensor<T, B>::empty({out, in});
  B::for_rows(out, in, BicubicRow<T>{BicubicFilter(in, out), matrix.data()});
  return matrix;
}

inline void check_bicubic(Index in, Index out) {
  constexpr Index most = Index{1} << 28;
  MOLE_CHECK_SHAPE(in == out || out <= most / in, "resize_bicubic: a side of", in, "pixels brought to", out,
                   "takes a matrix of more than", most, "weights; crop the image, or resize it in steps");
}

template <class T, class B>
void check_image(const char* op, const Tensor<T, B>& x, Index height, Index width) {
  MOLE_CHECK_SHAPE(x.rank() == 4 && x.size(1) > 0 && x.size(2) > 0 && height > 0 && width > 0, op,
                   ": expected pixels [S, H, W, C] and a size of at least 1 x 1, got", x.shape(), "and",
                   height, "x", width);
}

}  // namespace detail

/// Nearest neighbours: y[s, h, w] = x[s, floor(h H / H'), floor(w W / W')].
/// x [S, H, W, C], y [S, H', W', C].    Pullback of G: dx = the sum of G over the pixels that a pixel went
/// to.
/// Throws ShapeError.
template <class T, class B>
Tensor<T, B> resize_nearest(const Tensor<T, B>& x, Index height, Index width) {
  detail::check_image("resize_nearest", x, height, width);
  const Index S = x.size(0), H = x.size(1), W = x.size(2), C = x.size(3);
  const auto y = Tensor<T, B>::empty({S, height, width, C});
  B::for_rows(S * height * width, C, detail::NearestRow<T>{x.data(), y.data(), H, W, height, width, C});
  return record({x}, y, [=](const auto& G) {
    const auto dx = Tensor<T, B>::empty({S, H, W, C});
    B::for_rows(S * H * W, C, detail::NearestPullbackRow<T>{G.data(), dx.data(), H, W, height, width, C});
    return dx;
  });
}

/// Bicubic with antialiasing, as Pillow has it but for its rounding to 8 bits: y = R_h x R_w^T by channel.
/// x [S, H, W, C], y [S, H', W', C].    Pullback of G: dx = R_h^T G R_w.    Throws ShapeError, too for sides
/// whose matrix, R_h [H', H] or R_w [W', W], would have more than 2^28 weights.
template <class T, class B>
Tensor<T, B> resize_bicubic(const Tensor<T, B>& x, Index height, Index width) {
  detail::check_image("resize_bicubic", x, height, width);
  const Index S = x.size(0), H = x.size(1), W = x.size(2), C = x.size(3);
  detail::check_bicubic(H, height);
  detail::check_bicubic(W, width);
  auto y = x;
  if (W != width) y = matmul(detail::bicubic_matrix<T, B>(W, width), reshape(y, {S * H, W, C}));
  if (H != height) y = matmul(detail::bicubic_matrix<T, B>(H, height), reshape(y, {S, H, width * C}));
  return reshape(y, {S, height, width, C});
}

/// The pixels [top, top + height) x [left, left + width).  x [S, H, W, C], y [S, height, width, C]
/// Pullback of G: dx = G there, 0 elsewhere.    Throws ShapeError for a box outside the image.
template <class T, class B>
Tensor<T, B> crop(const Tensor<T, B>& x, Index top, Index left, Index height, Index width) {
  detail::check_image("crop", x, height, width);
  return slice(slice(x, 1, top, top + height), 2, left, left + width);
}

}  // namespace mole
