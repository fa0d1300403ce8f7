#pragma once
// The sizes of an AutoencoderKL.

#include <vector>

#include <mole/core/shape.hpp>

namespace mole {

/// The defaults are those of Stable Diffusion.
struct VaeConfig {
  Index in_channels = 3, out_channels = 3, latent_channels = 4;
  std::vector<Index> channels{128, 256, 512, 512};  ///< by level, the image's first
  Index layers = 2;  ///< resnets of an encoder's level; a decoder's has one more
  Index norm_groups = 32;
  double scaling_factor = 0.18215;  ///< of the latents that a UNet sees
  Index sample_size = 512;          ///< of the images it was trained on; of no effect
};

}  // namespace mole
