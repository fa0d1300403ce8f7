#pragma once
// The sizes of a CLIP.

#include <string>

#include <mole/core/shape.hpp>

namespace mole {

/// What both towers of a CLIP have. The defaults are those of transformers for the text.
struct ClipTowerConfig {
  Index hidden = 512, intermediate = 2048, layers = 12, heads = 8;
  std::string activation = "quick_gelu";  ///< the Hugging Face name: quick_gelu of OpenAI, gelu of OpenCLIP
  double layer_norm_eps = 1e-5;
};

/// The text tower. Its pooled output is the state at the end of the text.
struct ClipTextConfig : ClipTowerConfig {
  Index vocabulary = 49408, positions = 77;
  /// 2, as old configurations have it wrongly, stands for the largest id of a text.
  Index eos_token_id = 49407;
  Index projection = 0;  ///< width of text_projection; 0: the tower has none
};

/// The vision tower, on square images.
struct ClipVisionConfig : ClipTowerConfig {
  Index image_size = 224, patch_size = 32, channels = 3;
  Index projection = 0;  ///< width of visual_projection; 0: the tower has none

  ClipVisionConfig() {
    hidden = 768;
    intermediate = 3072;
    heads = 12;
  }
  /// How many patches an image has.
  Index patches() const { return (image_size / patch_size) * (image_size / patch_size); }
};

/// Both towers and what ties them together.
struct ClipConfig {
  ClipTextConfig text;
  ClipVisionConfig vision;
  Index projection = 512;             ///< width of the common space
  double logit_scale_start = 2.6592;  ///< of the logarithm of the factor of the cosines
};

}  // namespace mole
