#pragma once
// The subcommands of `mole` for pictures and their options. Each throws mole::Error for what the user can mend.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/shape.hpp>

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

void draw(const DrawOptions& options);

/// What lies in a folder of diffusers, on stdout.
void inspect_pictures(const std::filesystem::path& folder);

}  // namespace program
