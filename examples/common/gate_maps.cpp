#include "common/gate_maps.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include <mole/core/error.hpp>

namespace common {

Index level_columns(Index pixels, Index height, Index width) {
  for (Index h = height, w = width;; h = (h + 1) / 2, w = (w + 1) / 2) {
    if (h * w == pixels) return w;
    MOLE_CHECK_ARG(h > 1 || w > 1, "no level of a UNet has", pixels, "pixels where its latents are", height,
                   "x", width);
  }
}

Image map_image(const GateGrid& grid, std::size_t n_experts) {
  const auto tokens = grid.weights.size() / n_experts;
  Image image = Image::filled(grid.columns, static_cast<Index>(tokens) / grid.columns, 0);
  for (std::size_t token = 0; token < tokens; ++token)
    for (std::size_t expert = 0; expert < std::min<std::size_t>(3, n_experts); ++expert)
      image.pixels[token * 3 + expert] = static_cast<std::uint8_t>(
          std::lround(255 * std::clamp(grid.weights[token * n_experts + expert], 0.0, 1.0)));
  return image;
}

std::vector<std::string> most_varied(const std::vector<GateMap>& maps, std::size_t n_experts,
                                     std::size_t most) {
  std::vector<std::pair<double, std::string>> spread;
  for (const auto& [name, grid] : maps.at(0)) {
    double sum = 0;
    for (const auto& map : maps) {
      const auto& w = map.at(name).weights;
      for (std::size_t i = 0; i < n_experts; ++i) {
        double mean = 0, squares = 0;
        const double n = static_cast<double>(w.size() / n_experts);
        for (std::size_t t = i; t < w.size(); t += n_experts) mean += w[t] / n, squares += w[t] * w[t] / n;
        sum += squares - mean * mean;
      }
    }
    spread.emplace_back(-sum, name);
  }
  std::sort(spread.begin(), spread.end());
  std::vector<std::string> names;
  for (const auto& [sum, name] : spread)
    if (names.size() < most) names.push_back(name);
  return names;
}

std::string layer_label(std::string name) {
  for (const std::string part : {".transformer_blocks.0", ".attentions"})
    if (const auto at = name.find(part); at != name.npos)
      name.replace(at, part.size(), part == ".attentions" ? "\nattention" : "");
  return name;
}

std::string quarters_text(const GateMap& map, const std::vector<std::string>& experts) {
  const std::size_t N = experts.size();
  std::array<std::vector<double>, 4> sums;
  for (auto& sum : sums) sum.resize(N);
  for (const auto& [name, grid] : map) {
    const auto columns = static_cast<std::size_t>(grid.columns), rows = grid.weights.size() / N / columns;
    std::array<std::vector<double>, 4> own;
    std::array<double, 4> counts{};
    for (auto& sum : own) sum.resize(N);
    for (std::size_t token = 0; token < rows * columns; ++token) {
      const std::size_t quarter =
          (token / columns >= rows / 2 ? 2 : 0) + (token % columns >= columns / 2 ? 1 : 0);
      ++counts[quarter];
      for (std::size_t i = 0; i < N; ++i) own[quarter][i] += grid.weights[token * N + i];
    }
    for (std::size_t quarter = 0; quarter < 4; ++quarter)
      for (std::size_t i = 0; i < N; ++i)
        sums[quarter][i] +=
            own[quarter][i] / std::max(1.0, counts[quarter]) / static_cast<double>(map.size());
  }
  constexpr const char* names[] = {"top left    ", "top right   ", "bottom left ", "bottom right"};
  std::string text;
  for (std::size_t quarter = 0; quarter < 4; ++quarter) {
    text += names[quarter];
    for (std::size_t i = 0; i < N; ++i) {
      char share[16];
      std::snprintf(share, sizeof share, " %3.0f%%", 100 * sums[quarter][i]);
      text += "   " + experts[i] + share;
    }
    text += "\n";
  }
  return text;
}

}  // namespace common
