#pragma once
// CLIP (Radford et al. 2021): images and texts in one space.

#include <string>
#include <utility>

#include <mole/models/clip/text.hpp>
#include <mole/models/clip/vision.hpp>

namespace mole {

/// Both towers with their projections.
template <class T, class B>
class Clip {
 public:
  using Scalar = T;
  using Device = B;

  /// A model without weights: fill every tensor that visit() shows. Throws ArgumentError for a bad config.
  explicit Clip(const ClipConfig& config)
      : config_(config),
        text(with_projection(config.text, config.projection)),
        vision(with_projection(config.vision, config.projection)) {}

  const ClipConfig& config() const { return config_; }

  /// Calls f(name, shape, tensor) for every parameter, under its checkpoint's name; it may be replaced.
  template <class F>
  void visit(F f) {
    text.visit(f);
    vision.visit(f);
    f("logit_scale", Shape{}, logit_scale);
  }

  /// Every parameter drawn anew.
  void initialize(Generator& generator) {
    text.initialize(generator);
    vision.initialize(generator);
    logit_scale = Tensor<T, B>::scalar(static_cast<T>(config_.logit_scale_start));
  }

  /// exp(logit_scale) cos(image, text) [S, S'] of every image with every text.
  /// images [S, n, n, channels], prepared; ids [S', L].    Throws ShapeError.
  Tensor<T, B> logits_per_image(const Tensor<T, B>& images, const Tensor<Index, B>& ids) const {
    MolePass<T, B> for_images, for_texts;
    const auto cosines = matmul(unit_rows(vision.features(images, for_images)),
                                unit_rows(text.features(ids, for_texts)), Transpose::no, Transpose::yes);
    return mul(cosines, exp(logit_scale));
  }

 private:
  template <class Config>
  static Config with_projection(Config config, Index width) {
    MOLE_CHECK_ARG(width > 0, "Clip: expected a projection of positive width, got", width);
    config.projection = width;
    return config;
  }

  ClipConfig config_;

 public:
  ClipText<T, B> text;
  ClipVision<T, B> vision;
  Tensor<T, B> logit_scale;  ///< the logarithm of the factor of the cosines
};

}  // namespace mole
