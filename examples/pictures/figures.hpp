#pragma once
// Figures made of pictures in rows and columns.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/plots.hpp"
#include "pictures/image.hpp"

namespace pictures {

/// Pictures in rows and columns with their labels; a label may have lines, apart by '\n'.
struct Tiles {
  std::vector<std::string> rows, columns;
  std::vector<Image> pictures;  ///< [rows][columns], of any size: each is drawn `tile` pixels a side
  Index tile = 64;
  Index row_label = 200, column_label = 54;  ///< pixels that labels have
};

/// Writes NAME-tiles.png, the pictures alone, and draws NAME.png, the same with labels (gnuplot). Throws
/// mole::ArgumentError where the counts do not fit, mole::Error where a file cannot be written; without gnuplot there is
/// a note.
common::Plot draw_tiles(const std::filesystem::path& folder, const std::string& name, const Tiles& tiles);

/// The mean weights of the experts over the picture: of each gate of image tokens [tokens, experts].
using GateMap = std::map<std::string, std::vector<double>>;

/// A gate of the map as a picture: red, green and blue are the weights of the first three experts.
Image map_image(const std::vector<double>& weights, std::size_t n_experts);

/// A UNet's layer as a column label of draw_tiles(), in two lines: without what all of its layers' names share.
std::string layer_label(std::string name);

/// What each part of a picture used, as text: a line a quarter, experts in per cent, the mean over all gates of image
/// tokens.
std::string quarters_text(const GateMap& map, const std::vector<std::string>& experts);

}  // namespace pictures
