#include "common/tiles.hpp"

#include <algorithm>
#include <sstream>

#include <mole/core/error.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/gnuplot.hpp"

namespace common {

namespace {

constexpr Index gap = 2;

/// gnuplot commands for one label, its first line at (x, y) from the top left.
std::string label(const std::string& text, Index x, Index y, Index height) {
  std::istringstream lines(text);
  std::string script;
  for (std::string line; std::getline(lines, line); y += 14)
    script += "set label " + common::quoted(line) + " at " + std::to_string(x) + "," +
              std::to_string(height - y) + " left front\n";
  return script;
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace

Plot draw_tiles(const std::filesystem::path& folder, const std::string& name, const Tiles& tiles) {
  const auto R = static_cast<Index>(tiles.rows.size()), C = static_cast<Index>(tiles.columns.size());
  MOLE_CHECK_ARG(R > 0 && C > 0 && std::ssize(tiles.pictures) == R * C, "draw_tiles:", R, "rows of", C,
                 "columns, and", tiles.pictures.size(), "pictures");
  const Index step = tiles.tile + gap;
  Image sheet = Image::filled(C * step, R * step, 255);
  std::string csv = "row,column,x,y\n";
  for (Index r = 0; r < R; ++r)
    for (Index c = 0; c < C; ++c) {
      const auto& picture = tiles.pictures[static_cast<std::size_t>(r * C + c)];
      const Index scale = std::max<Index>(1, tiles.tile / picture.width);
      sheet.paste(picture, c * step, r * step, scale);
      csv += mole::csv_field(one_line(tiles.rows[static_cast<std::size_t>(r)])) + "," +
             mole::csv_field(one_line(tiles.columns[static_cast<std::size_t>(c)])) + "," +
             std::to_string(c * step) + "," + std::to_string(r * step) + "\n";
    }
  write_png(folder / (name + "-tiles.png"), sheet);
  const Index width = tiles.row_label + sheet.width, height = tiles.column_label + sheet.height;
  auto script = script_head(name, static_cast<int>(width), static_cast<int>(height), 7);
  script +=
      "unset border\nunset tics\nunset key\nset lmargin at screen 0\nset rmargin at screen 1\n"
      "set bmargin at screen 0\nset tmargin at screen 1\nset xrange [0:" +
      std::to_string(width) + "]\nset yrange [0:" + std::to_string(height) + "]\n";
  for (Index r = 0; r < R; ++r)
    script +=
        label(tiles.rows[static_cast<std::size_t>(r)], 6, tiles.column_label + r * step + step / 2, height);
  for (Index c = 0; c < C; ++c)
    script += label(tiles.columns[static_cast<std::size_t>(c)], tiles.row_label + c * step + 2, 10, height);
  script += "plot " + common::quoted(name + "-tiles.png") + " binary filetype=png origin=(" +
            std::to_string(tiles.row_label) + ".5,0.5) with rgbimage\n";
  return draw(folder, name, csv, script, {});
}

}  // namespace common
