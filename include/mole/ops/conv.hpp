#pragma once
// Convolution of images with channels last: by the backend's own kernels where it has them (core/kernels/conv.hpp),
// else as products over chunks of rows, since the patches of all positions at once would be kh kw times the image.

#include <algorithm>
#include <array>

#include <mole/core/gemm.hpp>
#include <mole/core/kernels/conv.hpp>
#include <mole/ops/detail/broadcast.hpp>
#include <mole/ops/matmul.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// Zeros around an image, in pixels.
struct Padding {
  Index top = 0, left = 0, bottom = 0, right = 0;

  /// The same on all four sides.
  static constexpr Padding all(Index n) { return {n, n, n, n}; }
  bool none() const { return top == 0 && left == 0 && bottom == 0 && right == 0; }
};

/// How conv2d moves over the image.
struct ConvOptions {
  Index stride = 1;  ///< in both directions
  Padding padding = {};
};

namespace detail {

/// to[r, (i, j, c)] = what tap (i, j) of the kernel meets at output position first + r, 0 outside the image.
template <class T>
struct PatchRow {
  const T* x;
  T* to;
  Index first;
  ConvExtents e;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index at = first + row.index(), w = at % e.out_width, h = at / e.out_width % e.out_height,
                s = at / e.out_width / e.out_height, C = e.channels;
    T* target = to + row.index() * e.kernel_h * e.kernel_w * C;
    for (Index i = 0; i < e.kernel_h; ++i)
      for (Index j = 0; j < e.kernel_w; ++j, target += C) {
        const Index y = h * e.stride - e.top + i, z = w * e.stride - e.left + j;
        T* const here = target;
        if (y < 0 || y >= e.height || z < 0 || z >= e.width) {
          row.each(C, [=](Index c) { here[c] = Compute<T>(0); });
          continue;
        }
        const T* const from = x + ((s * e.height + y) * e.width + z) * C;
        row.each(C, [=](Index c) { here[c] = from[c]; });
      }
  }
};

/// to[r, (i, j, o)] = G at the output position that has input pixel first + r under tap (i, j), 0 if none
/// has.
template <class T>
struct PatchPullbackRow {
  const T* g;
  T* to;
  Index first;
  ConvExtents e;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const Index at = first + row.index(), w = at % e.width, h = at / e.width % e.height,
                s = at / e.width / e.height, O = e.outputs;
    T* target = to + row.index() * e.kernel_h * e.kernel_w * O;
    for (Index i = 0; i < e.kernel_h; ++i)
      for (Index j = 0; j < e.kernel_w; ++j, target += O) {
        const Index y = h + e.top - i, z = w + e.left - j;
        T* const here = target;
        const bool met = y >= 0 && z >= 0 && y % e.stride == 0 && z % e.stride == 0 &&
                         y / e.stride < e.out_height && z / e.stride < e.out_width;
        if (!met) {
          row.each(O, [=](Index o) { here[o] = Compute<T>(0); });
          continue;
        }
        const T* const from = g + ((s * e.out_height + y / e.stride) * e.out_width + z / e.stride) * O;
        row.each(O, [=](Index o) { here[o] = from[o]; });
      }
  }
};

/// The bytes of patches that are held at once. A backend with much memory and slow launches says more.
template <class B>
constexpr Index patch_bytes() {
  if constexpr (requires { B::patch_bytes; })
    return B::patch_bytes;
  else
    return Index{1} << 23;
}

/// f(first, n, patches) over chunks of `rows` rows of patches of `width` elements; Make fills them. The
/// chunks depend on the extents alone, so that sums over them are the same for any number of threads.
template <class Make, class T, class B, class F>
void over_patches(const T* x, Index rows, Index width, const ConvExtents& e, F f) {
  const Index most =
      std::max<Index>(1, patch_bytes<B>() / static_cast<Index>(sizeof(T)) / std::max<Index>(width, 1));
  const auto patches = Tensor<T, B>::empty({std::min(most, rows), width});
  for (Index first = 0; first < rows; first += most) {
    const Index n = std::min(most, rows - first);
    B::for_rows(n, width, Make{x, patches.data(), first, e});
    f(first, n, patches.data());
  }
}

template <class T, class B>
ConvExtents conv_extents(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c,
                         const ConvOptions& options) {
  MOLE_CHECK_SHAPE(x.rank() == 4 && W.rank() == 4 && x.size(3) == W.size(1),
                   "conv2d: expected x [S, H, W, C] and W [O, C, kh, kw], got", x.shape(), "and", W.shape());
  const auto& p = options.padding;
  MOLE_CHECK_SHAPE(options.stride >= 1 && p.top >= 0 && p.left >= 0 && p.bottom >= 0 && p.right >= 0,
                   "conv2d: expected a stride of at least 1 and no negative padding, got stride",
                   options.stride);
  const Index h = x.size(1) + p.top + p.bottom - W.size(2), w = x.size(2) + p.left + p.right - W.size(3);
  MOLE_CHECK_SHAPE(W.size(2) >= 1 && W.size(3) >= 1 && h >= 0 && w >= 0, "conv2d: a kernel", W.shape(),
                   "does not fit into the padded image", x.shape());
  MOLE_CHECK_SHAPE(!c.defined() || c.shape() == Shape{W.size(0)}, "conv2d: expected a bias of shape",
                   Shape{W.size(0)}, "got", c.defined() ? c.shape() : Shape{});
  return {x.size(0),
          x.size(1),
          x.size(2),
          x.size(3),
          h / options.stride + 1,
          w / options.stride + 1,
          W.size(0),
          W.size(2),
          W.size(3),
          options.stride,
          p.top,
          p.left};
}

}  // namespace detail

/// y[s, h, w, o] = c[o] + sum over i, j, k of W[o, k, i, j] x[s, h stride + i - top, w stride + j - left, k],
/// x being 0 outside.  x [S, H, W, C], W [O, C, kh, kw] as PyTorch stores it, c [O] or undefined,
/// y [S, H', W', O] with H' = (H + top + bottom - kh) / stride + 1, W' alike.
/// Pullback of G, P the patches of x: dW = G^T P, dc = sum of G, dx = the same product with the kernel turned
/// around, of G spread out by the stride.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> conv2d(const Tensor<T, B>& x, const Tensor<T, B>& W, const Tensor<T, B>& c = {},
                    const ConvOptions& options = {}) {
  const auto e = detail::conv_extents(x, W, c, options);
  if (e.taps() == 1 && e.stride == 1 && options.padding.none())
    return linear(x, reshape(W, {e.outputs, e.channels}), c);
  const auto y = Tensor<T, B>::empty({e.images, e.out_height, e.out_width, e.outputs});
  const Index K = e.taps() * e.channels, O = e.outputs;
  {
    const auto kernel = permute(W.detach(), {0, 2, 3, 1});
    const T* const bias = c.defined() ? c.data() : nullptr;
    if (!detail::convolve<T, B>(ConvProduct::forward, e, x.data(), kernel.data(), y.data(), bias, false)) {
      if (bias) B::for_rows(e.out_rows(), O, detail::RepeatRow<T>{y.data(), bias, O});
      detail::over_patches<detail::PatchRow<T>, T, B>(
          x.data(), e.out_rows(), K, e, [&](Index first, Index n, const T* patches) {
            B::gemm(detail::gemm_nt(n, O, K, bias ? 1 : 0), patches, kernel.data(), y.data() + first * O);
          });
    }
  }
  const auto kept_x = W.requires_grad() ? x : x.place();
  return record({x, W, c}, y, [x = kept_x, W, c, e, K, O](const auto& G) {
    Tensor<T, B> dx, dW, dc;
    if (x.requires_grad()) {
      const GradTarget target(x);
      dx = target.tensor;
      const auto kernel = detail::has_convolution<T, B> ? permute(W.detach(), {0, 2, 3, 1}) : Tensor<T, B>();
      if (!kernel.defined() || !detail::convolve<T, B>(ConvProduct::data, e, dx.data(), kernel.data(),
                                                       G.data(), nullptr, target.beta == 1)) {
        const auto turned = permute(W.detach(), {2, 3, 0, 1});
        const Index KO = e.taps() * O, C = e.channels;
        detail::over_patches<detail::PatchPullbackRow<T>, T, B>(
            G.data(), e.in_rows(), KO, e, [&](Index first, Index n, const T* patches) {
              B::gemm(detail::gemm_nn(n, C, KO, target.beta), patches, turned.data(), dx.data() + first * C);
            });
      }
    }
    if (W.requires_grad()) {
      const auto sum = Tensor<T, B>::zeros({O, e.kernel_h, e.kernel_w, e.channels});
      if (!detail::convolve<T, B>(ConvProduct::weights, e, x.data(), sum.data(), G.data(), nullptr, false))
        detail::over_patches<detail::PatchRow<T>, T, B>(
            x.data(), e.out_rows(), K, e, [&](Index first, Index n, const T* patches) {
              B::gemm(detail::gemm_tn(O, K, n, 1), G.data() + first * O, patches, sum.data());
            });
      dW = permute(sum, {0, 3, 1, 2});
    }
    if (c.requires_grad()) dc = detail::sum_to(G, c.shape());
    return std::array{dx, dW, dc};
  });
}

/// An image or a batch of them with channels last, of one with channels first.  x [S, C, H, W], y [S, H, W,
/// C]
/// Pullback of G: dx = G with channels first.    Throws ShapeError.
template <class T, class B>
Tensor<T, B> channels_last(const Tensor<T, B>& x) {
  MOLE_CHECK_SHAPE(x.rank() == 4, "channels_last: expected [S, C, H, W], got", x.shape());
  return permute(x, {0, 2, 3, 1});
}
/// The other way.  x [S, H, W, C], y [S, C, H, W]    Pullback and errors alike.
template <class T, class B>
Tensor<T, B> channels_first(const Tensor<T, B>& x) {
  MOLE_CHECK_SHAPE(x.rank() == 4, "channels_first: expected [S, H, W, C], got", x.shape());
  return permute(x, {0, 3, 1, 2});
}

}  // namespace mole
