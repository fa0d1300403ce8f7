#pragma once
// Pictures of a training run, drawn by gnuplot. Each picture NAME comes as three files in a folder: NAME.csv
// (the numbers), NAME.gp (a gnuplot script that reads it; edit it and run it again) and NAME.png.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/train/curves.hpp>

namespace common {

/// Mean gates: what share of its mixture each scope gives to each expert, by task.
struct GateHeat {
  std::vector<std::string> scopes;   ///< rows, in the model's order
  std::vector<std::string> experts;  ///< columns
  std::vector<std::string> tasks;    ///< panels: tasks, prompts
  std::vector<double> values;        ///< [task][scope][expert], in [0, 1]; NaN: that scope lacks the expert
};

/// The load q of each expert (eq. 15): its mean weight over rows and gates.
struct ExpertLoads {
  std::vector<std::string> experts;
  std::vector<std::string> panels;  ///< what the rows are of: a task, a stream, all
  std::vector<double> values;       ///< [panel][expert]; NaN: no gate holds the expert

  void add(const std::string& panel, const std::vector<double>& load) {
    panels.push_back(panel);
    values.insert(values.end(), load.begin(), load.end());
  }
};

/// Lines over training steps, as a run records them.
using mole::Curves;

/// How a picture is made.
struct PlotOptions {
  std::string title = {};           ///< above the picture; empty: a fitting one
  std::string subtitle = {};        ///< of a heat map; empty: what it shows
  std::string gnuplot = "gnuplot";  ///< the program to run, looked up in PATH
};

/// The files of one picture.
struct Plot {
  std::filesystem::path csv, script;
  std::filesystem::path picture;  ///< empty when it could not be drawn
  std::string note;               ///< why it could not, and the command that draws it; empty otherwise
};

/// Says on stdout where a picture lies, or why there is none.
void report(const Plot& plot);

/// The gate heat map of the paper's Figure 7: one panel a task, a row a scope, a column an expert, values in
/// the cells where they fit, the task's own expert framed. CSV: task,scope,expert,gate. Throws
/// mole::ArgumentError when the counts do not fit, mole::Error when a file cannot be written; a missing or
/// failing gnuplot is only a note.
Plot plot_gates(const std::filesystem::path& folder, const std::string& name, const GateHeat& heat,
                const PlotOptions& options = {});

/// Bars of the load of each expert, one panel a row of panels, with its coefficient of variation in the
/// title; the dashed line is equal loads, the bar of the expert a panel is named after is coloured. CSV:
/// panel,expert,load,variation. Throws as plot_gates.
Plot plot_load(const std::filesystem::path& folder, const std::string& name, const ExpertLoads& loads,
               const PlotOptions& options = {});

/// Gate entropy over steps, in nats, the paper's Figure 5: a line a scope up to eight scopes, else their mean
/// with the band from the 10th to the 90th percentile. The dashed line is ln(experts), equal gates. CSV:
/// step,<series>. Throws as plot_gates.
Plot plot_entropy(const std::filesystem::path& folder, const std::string& name, const Curves& entropy,
                  int experts, const PlotOptions& options = {});

/// Loss over steps: raw values faint, their moving average (the CSV's <series> smoothed) strong. A series
/// named "balance" has a scale of its own and gets a panel below, with its minimum N ln N dashed when
/// `experts` N > 0. CSV: step,<series>. Throws as plot_gates.
Plot plot_loss(const std::filesystem::path& folder, const std::string& name, const Curves& loss,
               int experts = 0, const PlotOptions& options = {});

}  // namespace common
