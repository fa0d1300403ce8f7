// The picture of how much each expert is used.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include <mole/core/error.hpp>
#include <mole/experts/gate_statistics.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/gnuplot.hpp"

namespace common {

Plot plot_load(const std::filesystem::path& folder, const std::string& name, const ExpertLoads& loads,
               const PlotOptions& options) {
  const std::size_t panels = loads.panels.size(), experts = loads.experts.size();
  MOLE_CHECK_ARG(panels > 0 && experts > 0, "plot_load: expected at least one panel and expert, got", panels,
                 experts);
  MOLE_CHECK_ARG(loads.values.size() == panels * experts, "plot_load:", loads.values.size(),
                 "values, expected panels x experts =", panels * experts);
  const auto of_panel = [&](std::size_t p) {
    const auto first = loads.values.begin() + static_cast<std::ptrdiff_t>(p * experts);
    return std::vector<double>(first, first + static_cast<std::ptrdiff_t>(experts));
  };
  std::string csv = "panel,expert,load,variation\n";
  double low = 0, high = 0;
  for (std::size_t p = 0; p < panels; ++p) {
    const auto load = of_panel(p);
    for (std::size_t e = 0; e < experts; ++e) {
      csv += mole::csv_field(loads.panels[p]) + "," + mole::csv_field(loads.experts[e]) + "," +
             csv_number(load[e]) + "," + csv_number(mole::load_variation(load)) + "\n";
      if (mole::is_finite(load[e])) low = std::min(low, load[e]), high = std::max(high, load[e]);
    }
  }
  const double equal = 1 / static_cast<double>(experts);
  high = std::max(high, equal) * 1.12;

  // Pixels.
  const auto count = [](std::size_t n) { return static_cast<int>(n); };
  const int font = 10, bar = experts > 12 ? 16 : 50;
  const double letter = font * 0.83;
  std::size_t longest = 0;
  for (const auto& expert : loads.experts) longest = std::max(longest, text_width(expert));
  const bool turned = letter * static_cast<double>(longest) > bar - 6;
  const int below = turned ? static_cast<int>(letter * static_cast<double>(longest)) + 16 : 26;
  const int panel_width = std::max(bar * count(experts), 150), panel_height = 150;
  const int columns =
      std::clamp(std::min(count(panels), experts > 12 ? 2 : 4), 1, std::max(1, 2400 / (panel_width + 60)));
  const int rows = (count(panels) + columns - 1) / columns;
  const int left = 62, gap_x = 26, gap_y = 44, above = 98, right = 24, foot = below + 18;
  const int width = std::max(left + columns * panel_width + (columns - 1) * gap_x + right, 620);
  const int height = above + rows * panel_height + (rows - 1) * gap_y + foot;
  const auto x = [&](int pixel) { return number(pixel / static_cast<double>(width), "%.5f"); };
  const auto y = [&](int pixel) { return number(1 - pixel / static_cast<double>(height), "%.5f"); };

  std::string script = script_head(name, width, height, font);
  const std::string ink_style = " tc rgb '" + std::string(ink) + "'\n";
  script += "set label 1 " + quoted(options.title.empty() ? "Load of each expert" : options.title) +
            " at screen " + x(left) + "," + y(26) + " left font ',14'" + ink_style;
  const std::string note =
      !options.subtitle.empty()
          ? options.subtitle
          : "mean weight over rows and gates; dashed: equal loads; CV: coefficient of variation";
  script +=
      "set label 2 " + quoted(note) + " at screen " + x(left) + "," + y(48) + " left tc rgb '#666666'\n";
  script += "unset key\nset tics nomirror scale 0\nset border 3\nset boxwidth 0.7\n";
  script += "set grid ytics lc rgb '#dddddd' lw 1 lt 1\n";
  script += "set xrange [-0.6:" + number(static_cast<double>(experts) - 0.4) + "]\n";
  script += "set yrange [" + number(low * 1.12) + ":" + number(high) + "]\n";
  script += "set multiplot\n";
  std::string x_tics;
  for (std::size_t e = 0; e < experts; ++e)
    x_tics += (e == 0 ? "" : ", ") + quoted(loads.experts[e]) + " " + std::to_string(e);
  for (std::size_t p = 0; p < panels; ++p) {
    const int column = count(p) % columns, line = count(p) / columns;
    const int x0 = left + column * (panel_width + gap_x), y0 = above + line * (panel_height + gap_y);
    const bool lowest = p + static_cast<std::size_t>(columns) >= panels;
    const double spread = mole::load_variation(of_panel(p));
    script += "\nset lmargin at screen " + x(x0) + "\nset rmargin at screen " + x(x0 + panel_width) +
              "\nset tmargin at screen " + y(y0) + "\nset bmargin at screen " + y(y0 + panel_height) + "\n";
    script += "set title " +
              quoted(loads.panels[p] + (mole::is_nan(spread) ? "" : "   CV " + number(spread, "%.2f"))) +
              " offset 0,-0.6 font ',12'" + ink_style;
    script += lowest ? "set xtics (" + x_tics + ")" + (turned ? " rotate by 90 right" : "") +
                           " nomirror scale 0" + ink_style
                     : "unset xtics\n";
    script += std::string("set format y ") + (column == 0 ? "'%g'" : "''") + "\n";
    script +=
        "plot data every ::" + std::to_string(1 + p * experts) + "::" + std::to_string((p + 1) * experts) +
        " using 0:3:(stringcolumn(1) eq stringcolumn(2) ? 0xd55e00 : 0x31688e) with boxes lc rgb variable "
        "fs solid noborder, \\\n     " +
        number(equal, "%.9g") + " with lines dashtype (8,6) lw 1.5 lc rgb '#666666'\nunset label\n";
  }
  script += "\nunset multiplot\n";
  return draw(folder, name, csv, script, options);
}

}  // namespace common
