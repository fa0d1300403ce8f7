#pragma once
// The UNet of Stable Diffusion 1 and 2 (Rombach et al. 2022), as diffusers' UNet2DConditionModel computes it,
// over slots that can be frozen, train one LoRA, or mix N experts. Images have their channels last.

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mole/models/expert_model.hpp>
#include <mole/models/unet/config.hpp>
#include <mole/models/unet/transformer.hpp>
#include <mole/ops/timestep.hpp>

namespace mole {

/// How a level's way down pads its image. 0 stands for the right and the bottom alone, as in diffusers' Downsample2D.
inline Padding downsample_padding(const UNetConfig& config) {
  return config.downsample_padding == 0 ? Padding{0, 0, 1, 1} : Padding::all(config.downsample_padding);
}

/// Is shown the output of each module under its name, such as down_blocks.0.resnets.0.
template <class T, class B>
using ModuleWatch = std::function<void(const std::string& name, const Tensor<T, B>& output)>;

/// A denoiser: what noise, or which velocity, is in latents at a time, given the states of a text.
/// Its scopes are those of its transformer blocks; convolutions, projections and what reads the time are
/// outside.
template <class T, class B>
class UNet : public ExpertModel<T, B>, public HasParameters<UNet<T, B>> {
 public:
  /// The model's token streams: pixels of any level, the text, and the one token of the time.
  static constexpr std::size_t image_stream = 0, text_stream = 1, time_stream = 2;

  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit UNet(UNetConfig config) : config_(std::move(config)) {
    check();
    const auto& c = config_;
    auto& table = layers_.table;
    table.streams = {"image", "text", "time"};
    table.resolution_varies = true;
    const std::size_t levels = c.channels.size();
    const Index first = c.channels.front(), wide = 4 * first;
    time1_ = table.add_group(time_place(), {linear_slot("time_embedding.linear_1", wide, first)});
    time2_ = table.add_group(time_place(), {linear_slot("time_embedding.linear_2", wide, wide)});
    conv_in_ = table.add_group(image_place(), {conv_slot("conv_in", first, c.in_channels)});
    std::vector<Index> skips{first};
    Index channels = first;
    for (std::size_t i = 0; i < levels; ++i) {
      Level level{"down_blocks." + std::to_string(i), {}, {}, {}};
      for (Index j = 0; j < c.layers; ++j) {
        add_resnet(level, channels, c.channels[i]);
        channels = c.channels[i];
        if (c.down_attention[i]) add_transformer(level, channels, c.heads[i]);
        skips.push_back(channels);
      }
      if (i + 1 < levels) {
        const ConvOptions half{2, downsample_padding(c)};
        level.sampler = table.add_group(
            image_place(), {conv_slot(level.name + ".downsamplers.0.conv", channels, channels, 3, half)});
        skips.push_back(channels);
      }
      down_.push_back(std::move(level));
    }
    middle_.name = "mid_block";
    add_resnet(middle_, channels, channels);
    add_transformer(middle_, channels, c.heads.back());
    add_resnet(middle_, channels, channels);
    for (std::size_t i = 0; i < levels; ++i) {
      Level level{"up_blocks." + std::to_string(i), {}, {}, {}};
      const std::size_t mirror = levels - 1 - i;
      for (Index j = 0; j <= c.layers; ++j) {
        add_resnet(level, channels + skips.back(), c.channels[mirror]);
        skips.pop_back();
        channels = c.channels[mirror];
        if (c.up_attention[i]) add_transformer(level, channels, c.heads[mirror]);
      }
      if (i + 1 < levels)
        level.sampler = table.add_group(image_place(),
                                        {conv_slot(level.name + ".upsamplers.0.conv", channels, channels)});
      up_.push_back(std::move(level));
    }
    conv_out_ = table.add_group(image_place(), {conv_slot("conv_out", c.out_channels, first)});
  }

  const UNetConfig& config() const { return config_; }

  /// f(name, shape, start, tensor) for every parameter: see HasParameters.
  template <class F>
  void each_parameter(F f) {
    const auto visit_level = [&](Level& level) {
      for (auto& resnet : level.resnets) resnet.visit(f);
      for (auto& transformer : level.transformers) transformer.visit(f);
    };
    std::for_each(down_.begin(), down_.end(), visit_level);
    visit_level(middle_);
    std::for_each(up_.begin(), up_.end(), visit_level);
    norm_out_.visit("conv_norm_out", config_.channels.front(), f);
    visit_slots(layers_.table, f);
  }

  /// The time's vector [S, 1, 4 c0] of its sinusoid.  time [S] or [1] for all
  Tensor<T, B> time_embedding(const Tensor<Index, B>& time, Index S, MolePass<T, B>& pass) const {
    MOLE_CHECK_SHAPE(time.rank() == 1 && (time.size() == S || time.size() == 1),
                     "UNet: expected a time for each of", S, "samples or one for all, got", time.shape());
    const Index first = config_.channels.front();
    auto x = timestep_sinusoid<T>(time, first, {config_.flip_sin_to_cos, config_.freq_shift});
    if (time.size() != S) x = add(Tensor<T, B>::zeros({S, 1}), x);
    const auto hidden = silu(layers_(time1_, reshape(x, {S, 1, first}), pass).front());
    return layers_(time2_, hidden, pass).front();
  }

  /// The model's output [S, H, W, out_channels] for latents [S, H, W, in_channels] at a time of the
  /// training's grid, time [S] or [1] for all, given the states text [S, L, text_width]. Sides need not halve
  /// evenly.
  /// Throws ShapeError for inputs that do not fit.
  Tensor<T, B> operator()(const Tensor<T, B>& latents, const Tensor<Index, B>& time, const Tensor<T, B>& text,
                          MolePass<T, B>& pass, const ModuleWatch<T, B>& watch = {}) const {
    const auto& c = config_;
    MOLE_CHECK_SHAPE(latents.rank() == 4 && latents.size() > 0 && latents.size(3) == c.in_channels,
                     "UNet: expected latents [S, H, W,", c.in_channels, "], got", latents.shape());
    const Index S = latents.size(0);
    MOLE_CHECK_SHAPE(
        text.rank() == 3 && text.size(0) == S && text.size(1) > 0 && text.size(2) == c.text_width,
        "UNet: expected text states [", S, ", L,", c.text_width, "], got", text.shape());
    const auto seen = [&](const std::string& name, const Tensor<T, B>& y) {
      if (watch) watch(name, y);
    };
    const auto apply = [&](std::size_t group, const Tensor<T, B>& x) { return layers_(group, x, pass); };
    const GroupNormOptions norm{c.norm_groups, c.norm_eps};
    const auto embedded = time_embedding(time, S, pass);
    seen("time_embedding", embedded);
    const auto t = silu(embedded);
    auto x = apply(conv_in_, latents).front();
    seen("conv_in", x);
    std::vector<Tensor<T, B>> skips{x};
    const auto layer = [&](const Level& level, std::size_t j) {
      x = level.resnets[j](apply, x, t, norm);
      seen(level.resnets[j].name(), x);
      if (j >= level.transformers.size()) return;
      x = level.transformers[j](apply, x, text, c.norm_groups);
      seen(level.transformers[j].name(), x);
    };
    for (const auto& level : down_) {
      for (std::size_t j = 0; j < level.resnets.size(); ++j) {
        layer(level, j);
        skips.push_back(x);
      }
      if (level.sampler) {
        x = apply(*level.sampler, x).front();
        skips.push_back(x);
      }
      seen(level.name, x);
    }
    layer(middle_, 0);
    layer(middle_, 1);
    seen(middle_.name, x);
    for (const auto& level : up_) {
      for (std::size_t j = 0; j < level.resnets.size(); ++j) {
        x = concat<T, B>({x, skips.back()}, -1);
        skips.pop_back();
        layer(level, j);
      }
      // The size of what comes next: twice this one, unless a side was odd.
      if (level.sampler)
        x = apply(*level.sampler, resize_nearest(x, skips.back().size(1), skips.back().size(2))).front();
      seen(level.name, x);
    }
    return apply(conv_out_, silu(group_norm(x, norm_out_, norm))).front();
  }

 private:
  using ExpertModel<T, B>::layers_;

  /// A block of the UNet.
  struct Level {
    std::string name;
    std::vector<ResnetBlock<T, B>> resnets;
    std::vector<ImageTransformer<T, B>> transformers;
    std::optional<std::size_t> sampler;
  };

  static GroupPlace image_place() { return {.stream = image_stream, .home = image_stream, .outside = true}; }
  static GroupPlace time_place() { return {.stream = time_stream, .home = time_stream, .outside = true}; }

  void check() const {
    const auto& c = config_;
    const std::size_t n = c.channels.size();
    MOLE_CHECK_ARG(n > 0 && c.down_attention.size() == n && c.up_attention.size() == n && c.heads.size() == n,
                   "UNet: expected as many levels of channels, heads, down and up blocks, got", n,
                   c.heads.size(), c.down_attention.size(), c.up_attention.size());
    MOLE_CHECK_ARG(c.in_channels > 0 && c.out_channels > 0 && c.layers > 0 && c.text_width > 0 &&
                       c.norm_groups > 0 && c.downsample_padding >= 0 && c.channels.front() % 2 == 0,
                   "UNet: every size in the configuration must be positive, and the first width even");
    for (std::size_t i = 0; i < n; ++i)
      MOLE_CHECK_ARG(c.channels[i] > 0 && c.heads[i] > 0 && c.channels[i] % c.heads[i] == 0 &&
                         c.channels[i] % c.norm_groups == 0,
                     "UNet:", c.channels[i], "channels do not divide into", c.heads[i], "heads and",
                     c.norm_groups, "groups");
  }

  void add_resnet(Level& level, Index in, Index out) {
    level.resnets.emplace_back(layers_.table, image_place(),
                               level.name + ".resnets." + std::to_string(level.resnets.size()), in, out,
                               4 * config_.channels.front(), time_place());
  }
  void add_transformer(Level& level, Index channels, Index heads) {
    level.transformers.emplace_back(
        layers_.table, image_place(), level.name + ".attentions." + std::to_string(level.transformers.size()),
        channels, heads, config_.text_width, text_stream, config_.linear_projection);
  }

  UNetConfig config_;
  std::size_t time1_ = 0, time2_ = 0, conv_in_ = 0, conv_out_ = 0;
  std::vector<Level> down_, up_;
  Level middle_;
  AffineNorm<T, B> norm_out_;
};

}  // namespace mole
