#pragma once
// The convolutional parts that UNet and VAE are made of.

#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include <mole/models/parameters.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/group_norm.hpp>
#include <mole/ops/resize.hpp>

namespace mole {

/// A convolution as a slot, square and with a bias.
inline SlotShape conv_slot(const std::string& name, Index d_out, Index channels, Index kernel = 3,
                           const ConvOptions& options = {1, Padding::all(1)}) {
  const Index d_in = channels * kernel * kernel;
  return {
      name, d_out, d_in, 1 / std::sqrt(3 * static_cast<double>(d_in)), SlotKernel{kernel, kernel, options},
      true};
}
/// A convolution of each pixel by itself.
inline SlotShape pointwise_slot(const std::string& name, Index d_out, Index channels) {
  return conv_slot(name, d_out, channels, 1, {});
}
/// A linear layer as a slot.
inline SlotShape linear_slot(const std::string& name, Index d_out, Index d_in, bool bias = true) {
  return {name, d_out, d_in, 1 / std::sqrt(3 * static_cast<double>(d_in)), {}, bias};
}

/// Pixels as tokens, row by row.  x [S, H, W, C], result [S, H W, C]
template <class T, class B>
Tensor<T, B> pixels_as_tokens(const Tensor<T, B>& x) {
  return reshape(x, {x.size(0), x.size(1) * x.size(2), x.size(3)});
}

/// A layer of one slot on each pixel of an image; apply as self_attention takes it.  x [S, H, W, C]
template <class F, class T, class B>
Tensor<T, B> on_pixels(const F& apply, std::size_t group, const Tensor<T, B>& x) {
  return reshape(apply(group, pixels_as_tokens(x)).front(), {x.size(0), x.size(1), x.size(2), -1});
}

/// How the group norms of a model divide the channels.
struct GroupNormOptions {
  Index groups = 32;
  double eps = 1e-5;
};

template <class T, class B>
Tensor<T, B> group_norm(const Tensor<T, B>& x, const AffineNorm<T, B>& affine,
                        const GroupNormOptions& options) {
  return group_norm(x, options.groups, affine.weight, affine.bias, static_cast<Compute<T>>(options.eps));
}

/// h = conv1(silu(norm1 x)); h += time_emb_proj(time); h = conv2(silu(norm2 h)); y = shortcut(x) + h
template <class T, class B>
class ResnetBlock {
 public:
  /// Adds its slots under `name`. time_width: of the time's vector; 0: there is none. time_place: where the
  /// layer that reads it stands.
  ResnetBlock(SlotTable<T, B>& table, const GroupPlace& place, std::string name, Index in, Index out,
              Index time_width = 0, const GroupPlace& time_place = {})
      : name_(std::move(name)), in_(in), out_(out) {
    conv1_ = table.add_group(place, {conv_slot(name_ + ".conv1", out, in)});
    if (time_width > 0)
      time_ = table.add_group(time_place, {linear_slot(name_ + ".time_emb_proj", out, time_width)});
    conv2_ = table.add_group(place, {conv_slot(name_ + ".conv2", out, out)});
    if (in != out) shortcut_ = table.add_group(place, {pointwise_slot(name_ + ".conv_shortcut", out, in)});
  }

  /// x [S, H, W, in], time [S, 1, d] activated already or undefined, result [S, H, W, out]
  template <class F>
  Tensor<T, B> operator()(const F& apply, const Tensor<T, B>& x, const Tensor<T, B>& time,
                          const GroupNormOptions& norm) const {
    auto h = apply(conv1_, silu(group_norm(x, norm1_, norm))).front();
    if (time_) h = add(h, reshape(apply(*time_, time).front(), {x.size(0), 1, 1, out_}));
    h = apply(conv2_, silu(group_norm(h, norm2_, norm))).front();
    return add(shortcut_ ? on_pixels(apply, *shortcut_, x) : x, h);
  }

  /// f(name, shape, start, tensor) for its norms.
  template <class F>
  void visit(F f) {
    norm1_.visit(name_ + ".norm1", in_, f);
    norm2_.visit(name_ + ".norm2", out_, f);
  }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  Index in_, out_;
  std::size_t conv1_ = 0, conv2_ = 0;
  std::optional<std::size_t> time_, shortcut_;
  AffineNorm<T, B> norm1_, norm2_;
};

}  // namespace mole
