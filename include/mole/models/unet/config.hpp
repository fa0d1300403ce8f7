#pragma once
// The sizes of a UNet2DConditionModel of Stable Diffusion 1 and 2.

#include <vector>

#include <mole/core/shape.hpp>

namespace mole {

/// The defaults are those of Stable Diffusion 1.5. The first of a list is the level of the full resolution.
struct UNetConfig {
  Index in_channels = 4, out_channels = 4;
  std::vector<Index> channels{320, 640, 1280, 1280};  ///< by level (block_out_channels)
  std::vector<bool> down_attention{true, true, true,
                                   false};                  ///< whether a down block is CrossAttnDownBlock2D
  std::vector<bool> up_attention{false, true, true, true};  ///< the up blocks in their order: deepest first
  /// The number of heads by level. Stable Diffusion's files call it attention_head_dim.
  std::vector<Index> heads{8, 8, 8, 8};
  Index layers = 2;        ///< resnets of a down block; an up block has one more
  Index text_width = 768;  ///< cross_attention_dim
  Index norm_groups = 32;
  double norm_eps = 1e-5;
  bool linear_projection =
      false;  ///< proj_in and proj_out are stored as linear layers, not as 1x1 convolutions
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  Index downsample_padding = 1;
  Index sample_size = 64;  ///< of the latents it was trained on; of no effect
};

}  // namespace mole
