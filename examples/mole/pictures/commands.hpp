#pragma once
// The subcommands of `mole` for pictures and their options. Each throws mole::Error for what the user can mend.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/shape.hpp>

#include "common/ranks.hpp"
#include "common/router_arguments.hpp"
#include "common/training.hpp"

namespace program {

using mole::Index;

/// How pictures are painted.
struct PaintingOptions {
  Index steps = 20;
  double guidance = 7.5;
  std::string sampler = "ddim";
  std::string size;  ///< 512, or 768x512; empty: that of the base's training
  std::string negative;
  bool truncate = false;  ///< too long a prompt loses its end
};

/// `mole draw`: pictures of a prompt.
struct DrawOptions {
  std::filesystem::path base;  ///< empty: what the gates say
  std::string variant;
  std::string backend = "cpu";
  bool bf16 = false;  ///< of the model's numbers; else they are floats
  std::vector<std::string> experts;
  std::vector<double> weights;    ///< one an expert; empty: 1/N each
  std::filesystem::path gates;    ///< in place of weights
  std::vector<std::string> mask;  ///< experts that the gates leave out
  std::string prompt;
  PaintingOptions painting;
  std::uint64_t seed = 0;
  Index count = 1;
  std::filesystem::path noise;  ///< safetensors with the latents to begin with; empty: drawn by the seed
  std::filesystem::path out = "picture.png";
  bool show_gates = false;
};

/// `mole compose --prompts`: trains gates over LoRAs of a Stable Diffusion by CLIP, and by own pictures where there are some,
/// and says what they are worth.
struct ComposePicturesOptions {
  std::filesystem::path base, clip;
  std::string variant, backend = "cpu";
  bool bf16 = false;
  std::vector<std::string> experts;
  std::filesystem::path prompts,
      test;                  ///< JSONL; without `test` the first prompts that were trained on are judged
  PaintingOptions painting;  ///< of pictures to judge by, and of those in flight
  common::RunOptions run{130, 2, 0.03, "mole-out"};
  common::RouterChoice router;
  std::vector<std::string> pictures;  ///< folders of own pictures; see own_pictures.hpp
  double pictures_weight = 6;         ///< of the diffusion loss on them, beside CLIP's
  common::RankOptions ranks;
  Index sheet = 4;  ///< prompts to judge by, at most
  bool only_mole = false, dry_run = false;

  /// What examples/pictures found best: a gate a layer and token, the steps and the rate.
  ComposePicturesOptions() {
    router.gates.scope = mole::Scope::layer;
    router.gates.pooling = mole::Pooling::token;
  }
};

void compose_pictures(const ComposePicturesOptions& options);
void draw(const DrawOptions& options);

/// What lies in a folder of diffusers, on stdout.
void inspect_pictures(const std::filesystem::path& folder);

}  // namespace program
