#include "pictures/figures.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <sstream>

#include <mole/core/error.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/gnuplot.hpp"

namespace pictures {

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

common::Plot draw_tiles(const std::filesystem::path& folder, const std::string& name, const Tiles& tiles) {
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
  auto script = common::script_head(name, static_cast<int>(width), static_cast<int>(height), 7);
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
  return common::draw(folder, name, csv, script, {});
}

Image map_image(const std::vector<double>& weights, std::size_t n_experts) {
  const auto n = static_cast<Index>(std::lround(std::sqrt(static_cast<double>(weights.size() / n_experts))));
  Image image = Image::filled(n, n, 0);
  for (std::size_t token = 0; token < static_cast<std::size_t>(n * n); ++token)
    for (std::size_t expert = 0; expert < std::min<std::size_t>(3, n_experts); ++expert)
      image.pixels[token * 3 + expert] = static_cast<std::uint8_t>(
          std::lround(255 * std::clamp(weights[token * n_experts + expert], 0.0, 1.0)));
  return image;
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
  for (const auto& [name, weights] : map) {
    const auto n = static_cast<std::size_t>(std::lround(std::sqrt(static_cast<double>(weights.size() / N))));
    for (std::size_t token = 0; token < n * n; ++token) {
      const std::size_t quarter = (token / n >= n / 2 ? 2 : 0) + (token % n >= n / 2 ? 1 : 0);
      for (std::size_t i = 0; i < N; ++i)
        sums[quarter][i] += weights[token * N + i] / static_cast<double>(n * n / 4 * map.size());
    }
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

}  // namespace pictures
