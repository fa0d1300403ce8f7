// The pictures: their CSV files and gnuplot scripts.

#include "common/plots.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <iostream>

#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/gnuplot.hpp"

namespace common {
namespace {

using mole::Index;

// Perceptually even and readable with any colour vision (matplotlib's viridis, ten stops).
constexpr std::array<const char*, 10> viridis = {"#440154", "#482878", "#3e4989", "#31688e", "#26828e",
                                                 "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"};
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// "decoder.block.0.layer.1.EncDecAttention.q@memory" -> "decoder 0 EncDecAttention.q (memory)": checkpoint
// names are too long beside a picture. A layer's number stays only where nothing after it names the layer.
std::string short_scope(const std::string& scope) {
  std::string text = replaced(replaced(scope, ".block.", " "), "@memory", " (memory)");
  const auto layer = text.find(".layer.");
  if (layer == std::string::npos) return text;
  const auto digits_end = text.find_first_not_of("0123456789", layer + 7);
  const bool named = digits_end != std::string::npos && text[digits_end] == '.';
  return named ? text.substr(0, layer) + " " + text.substr(digits_end + 1) : replaced(text, ".layer.", ".");
}

std::string curves_csv(const Curves& curves) {
  std::string csv = "step";
  for (const auto& [name, values] : curves.series) csv += "," + mole::csv_field(name);
  csv += "\n";
  for (std::size_t i = 0; i < curves.step.size(); ++i) {
    csv += csv_number(curves.step[i]);
    for (const auto& [name, values] : curves.series) csv += "," + csv_number(values[i]);
    csv += "\n";
  }
  return csv;
}

void check(const Curves& curves, const char* what) {
  MOLE_CHECK_ARG(!curves.step.empty() && !curves.series.empty(), what,
                 "expected at least one step and one series");
  for (const auto& [name, values] : curves.series) {
    MOLE_CHECK_ARG(values.size() == curves.step.size(), what, "series '" + name + "' has", values.size(),
                   "values, expected one for each of the", curves.step.size(), "steps");
  }
}

double percentile(std::vector<double> sorted, double share) {
  std::erase_if(sorted, [](double v) { return mole::is_nan(v); });
  if (sorted.empty()) return std::nan("");
  std::ranges::sort(sorted);
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const auto high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (place - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

// Mean over `half` values to each side, fewer at the ends: unlike a running average it does not lag behind.
std::vector<double> running_mean(const std::vector<double>& values, std::size_t half) {
  std::vector<double> means(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t begin = i - std::min(i, half), end = std::min(i + half + 1, values.size());
    double sum = 0;
    for (std::size_t j = begin; j < end; ++j) sum += values[j];
    means[i] = sum / static_cast<double>(end - begin);
  }
  return means;
}

// 1, 2 or 5 times a power of ten that cuts `range` into about four.
double tic_step(double range) {
  if (!(range > 0) || !mole::is_finite(range)) return 1;
  const double unit = std::pow(10, std::floor(std::log10(range / 4)));
  const double share = range / 4 / unit;
  return unit * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
}

}  // namespace

void report(const Plot& plot) {
  std::cout << "  "
            << (plot.picture.empty() ? plot.csv.string() + "  (" + plot.note + ")" : plot.picture.string())
            << "\n";
}

Plot plot_gates(const std::filesystem::path& folder, const std::string& name, const GateHeat& heat,
                const PlotOptions& options) {
  const std::size_t tasks = heat.tasks.size(), scopes = heat.scopes.size(), experts = heat.experts.size();
  MOLE_CHECK_ARG(tasks > 0 && scopes > 0 && experts > 0,
                 "plot_gates: expected at least one task, scope and expert, got", tasks, scopes, experts);
  MOLE_CHECK_ARG(heat.values.size() == tasks * scopes * experts, "plot_gates:", heat.values.size(),
                 "values, expected tasks x scopes x experts =", tasks * scopes * experts);
  std::string csv = "task,scope,expert,gate\n";
  double top = 0;
  for (std::size_t t = 0, i = 0; t < tasks; ++t) {
    for (std::size_t s = 0; s < scopes; ++s) {
      for (std::size_t e = 0; e < experts; ++e, ++i) {
        csv += mole::csv_field(heat.tasks[t]) + "," + mole::csv_field(heat.scopes[s]) + "," +
               mole::csv_field(heat.experts[e]) + "," + csv_number(heat.values[i]) + "\n";
        if (heat.values[i] > top) top = heat.values[i];
      }
    }
  }
  top = std::clamp(std::ceil(top * 10) / 10, 0.1, 1.0);

  // Pixels. Few scopes make large cells in a grid of panels; many make low ones, panels side by side.
  const auto count = [](std::size_t n) { return static_cast<int>(n); };
  const bool tall = scopes > 20;
  const int cell_height = scopes > 40 ? 17 : tall ? 20 : scopes > 10 ? 26 : 34;
  const int cell_width = experts > 12 ? 20 : tall ? 32 : 50;
  const bool values_fit = cell_width >= 32;
  const int font = tall ? 9 : 10;
  int columns = tall ? count(tasks) : std::min(count(tasks), experts > 8 ? 2 : 3);
  columns = std::clamp(columns, 1, std::max(1, 2400 / (cell_width * count(experts) + 30)));
  const int rows = (count(tasks) + columns - 1) / columns;
  std::size_t longest_scope = 0, longest_expert = 0;
  for (const auto& scope : heat.scopes)
    longest_scope = std::max(longest_scope, text_width(short_scope(scope)));
  for (const auto& expert : heat.experts) longest_expert = std::max(longest_expert, text_width(expert));
  const double letter = font * 0.83;
  const bool turned = letter * static_cast<double>(longest_expert) > cell_width - 6;
  const int below = turned ? static_cast<int>(letter * static_cast<double>(longest_expert)) + 16 : 26;
  const int left = static_cast<int>(letter * static_cast<double>(longest_scope)) + 46;
  const int gap_x = 26, gap_y = 42, above = 98, right = 96, foot = below + 30;
  const int panel_width = cell_width * count(experts), panel_height = cell_height * count(scopes);
  const int width = std::max(left + columns * panel_width + (columns - 1) * gap_x + right, 620);
  const int height = above + rows * panel_height + (rows - 1) * gap_y + foot;
  const auto x = [&](int pixel) { return number(pixel / static_cast<double>(width), "%.5f"); };
  const auto y = [&](int pixel) { return number(1 - pixel / static_cast<double>(height), "%.5f"); };

  std::string script = script_head(name, width, height, font);
  const bool framed = std::ranges::any_of(heat.tasks, [&](const auto& task) {
    return std::ranges::find(heat.experts, task) != heat.experts.end();
  });
  const std::string title =
      options.title.empty() ? "Gates by scope and expert, one panel a task" : options.title;
  script += "set label 1 " + quoted(title) + " at screen " + x(left) + "," + y(26) +
            " left font ',14' tc rgb '" + ink + "'\n";
  const std::string note = !options.subtitle.empty() ? options.subtitle
                           : framed                  ? "mean gate; the task's own expert is framed"
                                                     : "mean gate";
  script +=
      "set label 2 " + quoted(note) + " at screen " + x(left) + "," + y(48) + " left tc rgb '#666666'\n";
  script += "set palette defined (";
  for (std::size_t i = 0; i < viridis.size(); ++i) {
    script += (i == 0 ? "" : ", ") + std::to_string(i) + " '" + viridis[i] + "'";
  }
  script += ")\nset cbrange [0:" + number(top) + "]\nset cbtics " + number(top > 0.5 ? 0.2 : 0.1) +
            " format '%.1f' scale 0.5\n";
  script += "set xrange [-0.5:" + number(static_cast<double>(experts) - 0.5) + "]\nset yrange [" +
            number(static_cast<double>(scopes) - 0.5) + ":-0.5]\n";
  script += "unset key\nset tics scale 0\nset multiplot\n";
  script += "S = " + std::to_string(scopes) + "; E = " + std::to_string(experts) + "\n";
  script += "row(i) = (int(i) / E) % S; column_of(i) = int(i) % E\n";
  const std::string tic_style = " textcolor rgb '" + std::string(ink) + "'\n";
  std::string x_tics, y_tics;
  for (std::size_t e = 0; e < experts; ++e) {
    x_tics += (e == 0 ? "" : ", ") + quoted(heat.experts[e]) + " " + std::to_string(e);
  }
  for (std::size_t s = 0; s < scopes; ++s) {
    y_tics += (s == 0 ? "" : ", ") + quoted(short_scope(heat.scopes[s])) + " " + std::to_string(s);
  }
  for (std::size_t t = 0; t < tasks; ++t) {
    const int column = count(t) % columns, line = count(t) / columns;
    const int x0 = left + column * (panel_width + gap_x), y0 = above + line * (panel_height + gap_y);
    const bool lowest = t + static_cast<std::size_t>(columns) >= tasks;
    script += "\n# " + replaced(heat.tasks[t], "\n", " ") + "\nset lmargin at screen " + x(x0) +
              "\nset rmargin at screen " + x(x0 + panel_width) + "\nset tmargin at screen " + y(y0) +
              "\nset bmargin at screen " + y(y0 + panel_height) + "\n";
    script += "set title " + quoted(heat.tasks[t]) + " offset 0,-0.6 font ',12' tc rgb '" + ink + "'\n";
    script += lowest ? "set xtics (" + x_tics + ")" + (turned ? " rotate by 90 right" : "") + tic_style
                     : "unset xtics\n";
    script += column == 0 ? "set ytics (" + y_tics + ")" + tic_style : "unset ytics\n";
    script += "unset object\n";
    for (std::size_t e = 0; e < experts; ++e) {
      if (heat.experts[e] != heat.tasks[t]) continue;
      script += "set object 1 rectangle from " + number(static_cast<double>(e) - 0.5) + ",-0.5 to " +
                number(static_cast<double>(e) + 0.5) + "," + number(static_cast<double>(scopes) - 0.5) +
                " front fillstyle empty border lc rgb '#d55e00' lw 2.5\n";
    }
    // One colour scale serves all panels; it stands beside the last column.
    script += t + 1 == tasks
                  ? "set colorbox user origin screen " + x(width - right + 24) + ", screen " +
                        y(height - foot) + " size screen " + x(16) + ", screen " +
                        number((height - foot - above) / static_cast<double>(height), "%.5f") + " noborder\n"
                  : "unset colorbox\n";
    const std::string records = "every ::" + std::to_string(1 + t * scopes * experts) +
                                "::" + std::to_string((t + 1) * scopes * experts);
    const std::string place = " using (column_of($0)):(row($0)):";
    // Boxes rather than an image: gnuplot draws no image of a single row.
    script += "plot data " + records +
              " using (c = column_of($0)):(r = row($0)):(c - 0.5):(c + 0.5):(r - 0.5):(r + 0.5):4"
              " with boxxyerror fillcolor palette fillstyle solid noborder";
    if (values_fit) {
      // White on the palette's dark half, black on its light one.
      for (const bool light : {false, true}) {
        script += ", \\\n     data " + records + place + "($4 " + (light ? ">=" : "<") + " " +
                  number(0.62 * top) + " ? sprintf('%.2f', $4) : '') with labels font '," +
                  std::to_string(tall ? 7 : 9) + "' tc rgb '" + (light ? "#111111" : "#ffffff") + "'";
      }
    }
    script += "\nunset label\n";
  }
  script += "\nunset multiplot\n";
  return draw(folder, name, csv, script, options);
}

Plot plot_entropy(const std::filesystem::path& folder, const std::string& name, const Curves& entropy,
                  int experts, const PlotOptions& options) {
  check(entropy, "plot_entropy:");
  MOLE_CHECK_ARG(experts >= 1, "plot_entropy: expected at least one expert, got", experts);
  const std::size_t lines = entropy.series.size();
  const bool band = lines > 8;
  Curves shown = entropy;
  if (band) {
    shown.series = {{"mean", {}}, {"10th percentile", {}}, {"90th percentile", {}}};
    for (std::size_t i = 0; i < entropy.step.size(); ++i) {
      std::vector<double> values;
      double sum = 0;
      for (const auto& [scope, y] : entropy.series) values.push_back(y[i]), sum += y[i];
      shown.series[0].second.push_back(sum / static_cast<double>(lines));
      shown.series[1].second.push_back(percentile(values, 0.1));
      shown.series[2].second.push_back(percentile(values, 0.9));
    }
    shown.series.insert(shown.series.end(), entropy.series.begin(), entropy.series.end());
  }
  const double equal = std::log(experts);
  std::string script = script_head(name, 1000, 560, 11);
  script += "set title " + quoted(options.title.empty() ? "Gate entropy during training" : options.title) +
            " font ',15' offset 0,0.3 tc rgb '" + ink + "'\n";
  script += "set xlabel 'training step'\nset ylabel 'entropy, nats' offset 0.5,0\n";
  script += "set grid ytics lc rgb '#dddddd' lw 1 lt 1\nset border 3\nset tics nomirror scale 0.5 out\n";
  script += "set key outside right center Left reverse samplen 1.6 spacing 1.25\n";
  script += "set xrange [" + number(entropy.step.front()) + ":" +
            number(std::max(entropy.step.back(), entropy.step.front() + 1)) + "]\n";
  script += "set yrange [0:" + number(std::max(equal, 0.1) * 1.06) + "]\nset format y '%.1f'\n";
  script += "plot " + number(equal, "%.9g") +
            " with lines dashtype (8,6) lw 1.5 lc rgb '#666666' title 'equal gates, ln " +
            std::to_string(experts) + "'";
  if (band) {
    script +=
        ", \\\n     data every ::1 using 1:3:4 with filledcurves fs transparent solid 0.25 noborder lc rgb "
        "'" +
        std::string(viridis[4]) + "' title '10th to 90th percentile'";
    script += ", \\\n     data every ::1 using 1:2 with lines lw 2.5 lc rgb '" + std::string(viridis[2]) +
              "' title " + quoted("mean of " + std::to_string(lines) + " gates");
  }
  for (std::size_t i = 0; !band && i < lines; ++i) {
    // Colours run with depth, and stop before viridis turns too pale for a line on white.
    const std::size_t shade = lines == 1 ? 2 : (i * 7 + (lines - 1) / 2) / (lines - 1);
    script += ", \\\n     data every ::1 using 1:" + std::to_string(i + 2) + " with lines lw 2.2 lc rgb '" +
              viridis[shade] + "' title " + quoted(short_scope(entropy.series[i].first));
  }
  return draw(folder, name, curves_csv(shown), script + "\n", options);
}

Plot plot_loss(const std::filesystem::path& folder, const std::string& name, const Curves& loss, int experts,
               const PlotOptions& options) {
  check(loss, "plot_loss:");
  Curves shown = loss;
  for (const auto& [series, values] : loss.series) {
    shown.series.emplace_back(series + " smoothed", running_mean(values, values.size() / 50));
  }
  std::vector<std::size_t> panels[2];
  for (std::size_t i = 0; i < loss.series.size(); ++i) panels[loss.series[i].first == "balance"].push_back(i);
  const bool two = !panels[0].empty() && !panels[1].empty();
  std::string script = script_head(name, 1000, two ? 760 : 560, 11);
  const std::string title = options.title.empty() ? "Loss during training" : options.title;
  script += "set grid ytics lc rgb '#dddddd' lw 1 lt 1\nset border 3\nset tics nomirror scale 0.5 out\n";
  script += "set lmargin at screen 0.09\nset rmargin at screen 0.79\n";
  script += "set xrange [" + number(loss.step.front()) + ":" +
            number(std::max(loss.step.back(), loss.step.front() + 1)) + "]\n";
  if (two) script += "set multiplot\n";
  bool first = true;
  for (int p = 0; p < 2; ++p) {
    if (panels[p].empty()) continue;
    double low = HUGE_VAL, high = 0;
    for (const std::size_t i : panels[p]) {
      for (const double v : loss.series[i].second) {
        if (mole::is_finite(v)) low = std::min(low, v), high = std::max(high, v);
      }
    }
    const double ceiling = two && p == 1 ? 0.36 : 0.91, floor = two && p == 0 ? 0.43 : two ? 0.09 : 0.12;
    script += "\nset tmargin at screen " + number(ceiling) + "\nset bmargin at screen " + number(floor) +
              "\nset format x " + (floor > 0.4 ? "''" : "'%g'") + "\nset key at screen 0.805, screen " +
              number(ceiling) + " left top Left reverse samplen 1.6 spacing 1.25\n";
    script += first ? "set title " + quoted(title) + " font ',15' offset 0,0.3 tc rgb '" + ink + "'\n"
                    : "unset title\n";
    script += (p == 1 || !two) ? "set xlabel 'training step'\n" : "unset xlabel\n";
    script += p == 0 ? "set ylabel 'loss'\n" : "set ylabel 'balance loss'\n";
    const double bottom = p == 1 && experts > 1 ? std::min(low, experts * std::log(experts)) : low;
    const bool logarithmic = p == 0 && low > 0 && high / low > 20;
    script += logarithmic ? "set logscale y\nset ytics autofreq\n"
                          : "unset logscale y\nset ytics " + number(tic_step(high - bottom)) + "\n";
    std::string lines;
    const auto add = [&lines](const std::string& part) {
      lines += (lines.empty() ? "plot " : ", \\\n     ") + part;
    };
    if (p == 1 && experts > 1) {
      add(number(experts * std::log(experts), "%.9g") +
          " with lines dashtype (8,6) lw 1.5 lc rgb '#666666' title " +
          quoted("equal gates, " + std::to_string(experts) + " ln " + std::to_string(experts)));
    }
    for (const std::size_t i : panels[p]) {
      const std::string colour = line_colours[i % line_colours.size()];
      add("data every ::1 using 1:" + std::to_string(i + 2) + " with lines lw 1 lc rgb '#b0" +
          colour.substr(1) + "' notitle");
    }
    for (const std::size_t i : panels[p]) {
      add("data every ::1 using 1:" + std::to_string(i + 2 + loss.series.size()) +
          " with lines lw 2.5 lc rgb '" + line_colours[i % line_colours.size()] + "' title " +
          quoted(loss.series[i].first));
    }
    script += lines + "\n";
    first = false;
  }
  if (two) script += "\nunset multiplot\n";
  return draw(folder, name, curves_csv(shown), script, options);
}

}  // namespace common
