#pragma once
// The gates of a UNet's token gates over a picture: which expert each part of it used.

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include <mole/models/diffusion/sample.hpp>

#include "common/image.hpp"

namespace common {

/// The mean weights of the experts at the pixels of a level of the UNet; 0 where an expert does not adapt the gate's
/// layers.
struct GateGrid {
  Index columns = 0;            ///< pixels of a row
  std::vector<double> weights;  ///< [pixels, all experts]
};

/// The grids of a picture's gates of image tokens, by gate.
using GateMap = std::map<std::string, GateGrid>;

/// The pixels of a row at the level of a UNet that has so many pixels, for latents of that size: each level halves the
/// sides of the one above, rounded up. Throws mole::ArgumentError where there is no such level.
Index level_columns(Index pixels, Index height, Index width);

/// Adds what the gates of image tokens weighed in a step of sampling to the maps of the batch's pictures, which begin
/// with maps[first]. The first half of the steps is left out: it decides on the layout, the second half paints. With
/// guidance the rows of the prompts count, not those of the negative texts.
template <class T, class B>
void gather_maps(const mole::Mixer<T, B>& mixer, std::size_t first, const mole::SampledStep<T, B>& step,
                 Index steps, std::vector<GateMap>& maps) {
  const auto half = static_cast<std::size_t>(steps) / 2;
  if (step.number < half) return;
  const double share = 1 / static_cast<double>(static_cast<std::size_t>(steps) - half);
  const Index S = step.latents.size(0), H = step.latents.size(1), W = step.latents.size(2);
  const auto all = static_cast<std::size_t>(mixer.n_experts());
  for (const auto& record : mixer.records(step.pass)) {
    if (record.stream == "memory" || record.value.weights.rank() != 3) continue;
    const auto values = record.value.weights.to_host();
    const auto pixels = static_cast<std::size_t>(record.value.weights.size(1)), own = record.experts.size();
    // The first row of the prompts.
    const auto begin = static_cast<std::size_t>(record.value.weights.size(0) - S) * pixels;
    for (std::size_t s = 0; s < static_cast<std::size_t>(S) && first + s < maps.size(); ++s) {
      auto& grid = maps[first + s][record.name];
      grid.columns = level_columns(static_cast<Index>(pixels), H, W);
      grid.weights.resize(pixels * all);
      for (std::size_t pixel = 0; pixel < pixels; ++pixel)
        for (std::size_t i = 0; i < own; ++i)
          grid.weights[pixel * all + static_cast<std::size_t>(record.experts[i])] +=
              share * static_cast<double>(values[(begin + s * pixels + pixel) * own + i]);
    }
  }
}

/// A gate of the map as a picture: red, green and blue are the weights of the first three experts.
Image map_image(const GateGrid& grid, std::size_t n_experts);

/// The gates whose weights differ most from pixel to pixel over some pictures, at most `most`.
std::vector<std::string> most_varied(const std::vector<GateMap>& maps, std::size_t n_experts,
                                     std::size_t most);

/// A UNet's layer as a column label of draw_tiles(), in two lines: without what all of its layers' names share.
std::string layer_label(std::string name);

/// What each part of a picture used, as text: a line a quarter, experts in per cent, the mean over all gates of image
/// tokens.
std::string quarters_text(const GateMap& map, const std::vector<std::string>& experts);

}  // namespace common
