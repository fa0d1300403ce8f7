#pragma once
// CLIP's vision tower.

#include <string>
#include <utility>

#include <mole/models/clip/tower.hpp>
#include <mole/models/expert_model.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// The vision tower under the names of transformers' CLIPModel (vision_model. ...). Experts can be attached
/// to it.
template <class T, class B>
class ClipVision : public ExpertModel<T, B>, public HasParameters<ClipVision<T, B>> {
 public:
  /// A tower without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit ClipVision(ClipVisionConfig config)
      : config_(std::move(config)),
        patches_(add_patches()),
        tower_(layers_.table, config_, "vision_model.encoder.layers") {
    const auto& c = config_;
    auto& table = layers_.table;
    table.streams = {"patches"};
    table.hidden = c.hidden;
    if (c.projection > 0)
      projection_ = table.add_group({.outside = true}, {{"visual_projection", c.projection, c.hidden,
                                                         1 / std::sqrt(static_cast<double>(c.hidden))}});
  }

  const ClipVisionConfig& config() const { return config_; }

  /// f(name, shape, start, tensor) for every parameter: see HasParameters.
  template <class F>
  void each_parameter(F f) {
    const auto& c = config_;
    const ParameterStart start{0, 1 / std::sqrt(static_cast<double>(c.hidden))};
    f("vision_model.embeddings.class_embedding", Shape{c.hidden}, start, class_);
    f("vision_model.embeddings.position_embedding.weight", Shape{c.patches() + 1, c.hidden},
      ParameterStart{0, 0.02}, positions_);
    first_norm_.visit("vision_model.pre_layrnorm", c.hidden, f);  // the checkpoints' spelling
    tower_.visit(f);
    last_norm_.visit("vision_model.post_layernorm", c.hidden, f);
    visit_slots(layers_.table, f);
  }

  /// The pooled state [S, d], the class token's after the last norm.  pixels [S, n, n, channels], prepared
  /// (clip_prepare), n the image size.    Throws ShapeError.
  Tensor<T, B> pooled(const Tensor<T, B>& pixels, MolePass<T, B>& pass) const {
    const auto& c = config_;
    MOLE_CHECK_SHAPE(pixels.rank() == 4 &&
                         pixels.shape() == Shape({pixels.size(0), c.image_size, c.image_size, c.channels}),
                     "ClipVision: expected pixels [S,", c.image_size, ",", c.image_size, ",", c.channels,
                     "], got", pixels.shape());
    const Index S = pixels.size(0);
    const auto states = this->in_passes(S, pass, [&](MolePass<T, B>& own) {
      const auto apply = [&](std::size_t group, const Tensor<T, B>& x) { return layers_(group, x, own); };
      const auto patches = reshape(apply(patches_, pixels).front(), {S, c.patches(), c.hidden});
      const auto first = add(Tensor<T, B>::zeros({S, 1, c.hidden}), class_);
      const auto x = add(concat<T, B>({first, patches}, 1), positions_);
      return tower_(apply, tower_.norm(x, first_norm_), false);
    });
    return tower_.norm(reshape(slice(states, 1, 0, 1), {S, c.hidden}), last_norm_);
  }

  /// The projected image features [S, projection], not normalised. Throws ArgumentError for a tower without a
  /// projection, ShapeError as pooled() does.
  Tensor<T, B> features(const Tensor<T, B>& pixels, MolePass<T, B>& pass) const {
    MOLE_CHECK_ARG(config_.projection > 0, "ClipVision: this tower has no projection; use pooled()");
    const auto one = pooled(pixels, pass);
    return reshape(layers_(projection_, reshape(one, {one.size(0), 1, -1}), pass).front(), {one.size(0), -1});
  }

 private:
  using ExpertModel<T, B>::layers_;

  std::size_t add_patches() {
    const auto& c = config_;
    MOLE_CHECK_ARG(c.patch_size > 0 && c.channels > 0 && c.image_size >= c.patch_size && c.hidden > 0,
                   "ClipVision: expected an image of at least one patch, got", c.image_size, "and",
                   c.patch_size);
    const Index d_in = c.channels * c.patch_size * c.patch_size;
    return layers_.table.add_group(
        {.outside = true},
        {{"vision_model.embeddings.patch_embedding", c.hidden, d_in, 1 / std::sqrt(static_cast<double>(d_in)),
          SlotKernel{c.patch_size, c.patch_size, {c.patch_size, {}}}}});
  }

  ClipVisionConfig config_;
  std::size_t patches_;
  ClipTower<T, B> tower_;
  std::size_t projection_ = 0;
  Tensor<T, B> class_, positions_;
  AffineNorm<T, B> first_norm_, last_norm_;
};

}  // namespace mole
