#pragma once
// The autoencoder of Stable Diffusion (Kingma & Welling 2014; Rombach et al. 2022), as diffusers'
// AutoencoderKL computes it. Images have their channels last.

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/unet/resnet.hpp>
#include <mole/models/vae/config.hpp>
#include <mole/ops/attention.hpp>
#include <mole/ops/clamp.hpp>

namespace mole {

/// What an image may be in the latent space: independent normal numbers. No scaling factor is in them.
template <class T, class B>
struct VaePosterior {
  Tensor<T, B> mean, log_variance;  ///< [S, h, w, latent_channels]

  /// mean + exp(log_variance / 2) noise.  noise of their shape    Throws ShapeError.
  Tensor<T, B> sample(const Tensor<T, B>& noise) const {
    return add(mean, mul(exp(scale(log_variance, Compute<T>(0.5))), noise));
  }
};

/// Images to latents and back.
template <class T, class B>
class Vae : public HasParameters<Vae<T, B>> {
 public:
  using Scalar = T;
  using Device = B;

  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit Vae(VaeConfig config) : config_(std::move(config)) {
    const auto& c = config_;
    MOLE_CHECK_ARG(!c.channels.empty() && c.in_channels > 0 && c.out_channels > 0 && c.latent_channels > 0 &&
                       c.layers > 0 && c.norm_groups > 0,
                   "Vae: every size in the configuration must be positive");
    for (const Index channels : c.channels)
      MOLE_CHECK_ARG(channels > 0 && channels % c.norm_groups == 0, "Vae:", channels,
                     "channels do not divide into", c.norm_groups, "groups");
    const std::size_t levels = c.channels.size();
    const Index deep = c.channels.back(), z = c.latent_channels;
    encoder_.name = "encoder";
    Index channels = c.channels.front();
    encoder_.conv_in = group(conv_slot("encoder.conv_in", channels, c.in_channels));
    for (std::size_t i = 0; i < levels; ++i) {
      auto& level = add_level(encoder_, "encoder.down_blocks.", i, channels, c.channels[i], c.layers);
      channels = c.channels[i];
      // Padded at the right and at the bottom alone.
      if (i + 1 < levels)
        level.sampler =
            group(conv_slot(level.name + ".downsamplers.0.conv", channels, channels, 3, {2, {0, 0, 1, 1}}));
    }
    add_middle(encoder_, deep);
    encoder_.conv_out = group(conv_slot("encoder.conv_out", 2 * z, deep));
    quant_ = group(pointwise_slot("quant_conv", 2 * z, 2 * z));
    post_quant_ = group(pointwise_slot("post_quant_conv", z, z));
    decoder_.name = "decoder";
    decoder_.conv_in = group(conv_slot("decoder.conv_in", deep, z));
    add_middle(decoder_, deep);
    channels = deep;
    for (std::size_t i = 0; i < levels; ++i) {
      const Index out = c.channels[levels - 1 - i];
      auto& level = add_level(decoder_, "decoder.up_blocks.", i, channels, out, c.layers + 1);
      channels = out;
      if (i + 1 < levels)
        level.sampler = group(conv_slot(level.name + ".upsamplers.0.conv", channels, channels));
    }
    decoder_.conv_out = group(conv_slot("decoder.conv_out", c.out_channels, channels));
    decoder_.width_out = channels;
    encoder_.width_out = deep;
  }

  const VaeConfig& config() const { return config_; }

  /// f(name, shape, start, tensor) for every parameter: see HasParameters.
  template <class F>
  void each_parameter(F f) {
    for (Half* half : {&encoder_, &decoder_}) {
      for (auto& level : half->levels)
        for (auto& resnet : level.resnets) resnet.visit(f);
      for (auto& resnet : half->middle) resnet.visit(f);
      half->attention_norm.visit(half->name + ".mid_block.attentions.0.group_norm", half->width, f);
      half->norm_out.visit(half->name + ".conv_norm_out", half->width_out, f);
    }
    visit_slots(table_, f);
  }

  /// The latents of pixels in [-1, 1] [S, H, W, in_channels].    Throws ShapeError.
  VaePosterior<T, B> encode(const Tensor<T, B>& pixels) const {
    MOLE_CHECK_SHAPE(pixels.rank() == 4 && pixels.size() > 0 && pixels.size(3) == config_.in_channels,
                     "Vae: expected pixels [S, H, W,", config_.in_channels, "], got", pixels.shape());
    auto x = one(encoder_.conv_in, pixels);
    for (const auto& level : encoder_.levels) {
      for (const auto& resnet : level.resnets) x = resnet(apply(), x, {}, norm());
      if (level.sampler) x = one(*level.sampler, x);
    }
    const auto moments = on_pixels(apply(), quant_, out(encoder_, middle(encoder_, x)));
    const Index z = config_.latent_channels;
    return {slice(moments, -1, 0, z), clamp(slice(moments, -1, z, 2 * z), -30, 20)};
  }

  /// The image [S, H, W, out_channels], about in [-1, 1], of latents [S, h, w, latent_channels] without the
  /// scaling factor.    Throws ShapeError.
  Tensor<T, B> decode(const Tensor<T, B>& latents) const {
    MOLE_CHECK_SHAPE(latents.rank() == 4 && latents.size() > 0 && latents.size(3) == config_.latent_channels,
                     "Vae: expected latents [S, h, w,", config_.latent_channels, "], got", latents.shape());
    auto x = middle(decoder_, one(decoder_.conv_in, on_pixels(apply(), post_quant_, latents)));
    for (const auto& level : decoder_.levels) {
      for (const auto& resnet : level.resnets) x = resnet(apply(), x, {}, norm());
      if (level.sampler) x = one(*level.sampler, resize_nearest(x, 2 * x.size(1), 2 * x.size(2)));
    }
    return out(decoder_, x);
  }

  /// decode() of latents as a UNet has them, as an image of [0, 1]: clamp(decode(z / scaling_factor) / 2 +
  /// 0.5).
  Tensor<T, B> image01(const Tensor<T, B>& latents, ClampGradient gradient = ClampGradient::cut) const {
    const auto y = decode(scale(latents, static_cast<Compute<T>>(1 / config_.scaling_factor)));
    return clamp(shift(scale(y, Compute<T>(0.5)), Compute<T>(0.5)), 0, 1, gradient);
  }

 private:
  struct Level {
    std::string name;
    std::vector<ResnetBlock<T, B>> resnets;
    std::optional<std::size_t> sampler;
  };
  /// Encoder or decoder.
  struct Half {
    std::string name;
    std::vector<Level> levels;
    std::vector<ResnetBlock<T, B>> middle;  ///< two, with the attention between them
    std::size_t conv_in = 0, conv_out = 0, qkv = 0, attention_out = 0;
    Index width = 0, width_out = 0;  ///< of the middle, and of what conv_out reads
    AffineNorm<T, B> attention_norm, norm_out;
  };

  std::size_t group(const SlotShape& slot) { return table_.add_group({}, {slot}); }

  Level& add_level(Half& half, const std::string& prefix, std::size_t number, Index in, Index out,
                   Index resnets) {
    Level level{prefix + std::to_string(number), {}, {}};
    for (Index j = 0; j < resnets; ++j)
      level.resnets.emplace_back(table_, GroupPlace{}, level.name + ".resnets." + std::to_string(j),
                                 j == 0 ? in : out, out);
    half.levels.push_back(std::move(level));
    return half.levels.back();
  }

  void add_middle(Half& half, Index C) {
    const std::string block = half.name + ".mid_block.", attention = block + "attentions.0.";
    half.width = C;
    half.middle.emplace_back(table_, GroupPlace{}, block + "resnets.0", C, C);
    half.qkv =
        table_.add_group({}, {linear_slot(attention + "to_q", C, C), linear_slot(attention + "to_k", C, C),
                              linear_slot(attention + "to_v", C, C)});
    half.attention_out = group(linear_slot(attention + "to_out.0", C, C));
    half.middle.emplace_back(table_, GroupPlace{}, block + "resnets.1", C, C);
  }

  auto apply() const {
    return [this](std::size_t number, const Tensor<T, B>& x) {
      std::vector<Tensor<T, B>> outputs;
      for (const std::size_t slot : table_.groups[number].slots) outputs.push_back(table_.apply(slot, x));
      return outputs;
    };
  }
  Tensor<T, B> one(std::size_t number, const Tensor<T, B>& x) const { return apply()(number, x).front(); }
  GroupNormOptions norm() const { return {config_.norm_groups, 1e-6}; }

  Tensor<T, B> middle(const Half& half, Tensor<T, B> x) const {
    x = half.middle[0](apply(), x, {}, norm());
    const auto qkv = apply()(half.qkv, pixels_as_tokens(group_norm(x, half.attention_norm, norm())));
    const auto factor = static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(half.width)));
    const auto y =
        one(half.attention_out, attention(qkv[0], qkv[1], qkv[2], AttentionOptions<T, B>{1, factor}));
    return half.middle[1](apply(), add(x, reshape(y, x.shape())), {}, norm());
  }
  Tensor<T, B> out(const Half& half, const Tensor<T, B>& x) const {
    return one(half.conv_out, silu(group_norm(x, half.norm_out, norm())));
  }

  VaeConfig config_;
  SlotTable<T, B> table_;
  Half encoder_, decoder_;
  std::size_t quant_ = 0, post_quant_ = 0;
};

}  // namespace mole
