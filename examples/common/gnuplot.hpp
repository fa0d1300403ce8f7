#pragma once
// What all pictures share: pieces of gnuplot scripts, and running gnuplot on them.

#include <array>
#include <filesystem>
#include <string>

#include "common/plots.hpp"

namespace common {

/// The colour of text and lines.
inline constexpr const char* ink = "#222222";
/// Okabe and Ito's colours for unordered lines.
inline constexpr std::array<const char*, 6> line_colours = {"#0072b2", "#d55e00", "#009e73",
                                                            "#cc79a7", "#e69f00", "#56b4e9"};

/// `value` by a printf format for one double.
std::string number(double value, const char* format = "%g");

/// `text` as a gnuplot string: in single quotes only the quote itself is special. Line breaks become spaces.
std::string quoted(const std::string& text);

/// The first lines of the script NAME.gp: terminal, size in pixels, font size, output NAME.png, data
/// NAME.csv.
std::string script_head(const std::string& name, int width, int height, int font);

/// Writes NAME.csv and NAME.gp to `folder` and runs gnuplot on the script there.
/// Throws mole::Error when a file cannot be written; says in the note why there is no picture.
Plot draw(const std::filesystem::path& folder, const std::string& name, const std::string& csv,
          const std::string& script, const PlotOptions& options);

}  // namespace common
