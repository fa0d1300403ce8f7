#pragma once
// What all pictures share: pieces of gnuplot scripts, and running gnuplot on them.

#include <filesystem>
#include <string>

#include "numbers/plots.hpp"

namespace numbers {

/// The colour of text and lines.
inline constexpr const char* ink = "#222222";

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

}  // namespace numbers
