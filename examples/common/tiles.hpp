#pragma once
// Figures made of pictures in rows and columns.

#include <filesystem>
#include <string>
#include <vector>

#include "common/image.hpp"
#include "common/plots.hpp"

namespace common {

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
Plot draw_tiles(const std::filesystem::path& folder, const std::string& name, const Tiles& tiles);

}  // namespace common
