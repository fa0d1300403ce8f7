#include "numbers/tables/report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <mole/core/error.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/gnuplot.hpp"

namespace numbers {

using common::csv_number;
using common::ink;
using common::line_colours;
using common::number;
using common::Plot;
using common::PlotOptions;
using common::quoted;
using common::script_head;
using common::text_width;
using common::with_deviation;

namespace {

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::string percent(double rate) { return number(100 * rate, "%.1f"); }

std::string percent(const Spread& s) { return with_deviation(s, 100, "%.1f"); }
std::string nats(const Spread& s) { return with_deviation(s, 1, "%.3f"); }

Spread of_column(const Results& results, std::size_t row, std::size_t column) {
  std::vector<double> values;
  for (const auto& seed : results.rates[row]) values.push_back(seed[column]);
  return spread(values);
}

std::size_t row_named(const Study& study, const std::string& name) {
  const auto found =
      std::find_if(study.rows.begin(), study.rows.end(), [&](const Row& row) { return row.name == name; });
  MOLE_CHECK_ARG(found != study.rows.end(), "study", study.name, "compares a row", name, "that it lacks");
  return static_cast<std::size_t>(found - study.rows.begin());
}

bool counts_experts(const Study& study) {
  return std::all_of(study.columns.begin(), study.columns.end(), [](const std::string& column) {
    return column.find_first_not_of("0123456789") == column.npos;
  });
}

// The average over some columns, for each seed, and its spread; of all columns if none is named.
Spread average_of(const Results& results, std::size_t row, const std::vector<std::string>& columns) {
  if (columns.empty()) return average(results, row);
  std::vector<double> values;
  for (const auto& seed : results.rates[row]) {
    std::vector<double> some;
    for (std::size_t c = 0; c < seed.size(); ++c)
      if (std::find(columns.begin(), columns.end(), results.study.columns[c]) != columns.end())
        some.push_back(seed[c]);
    values.push_back(mean_of(some));
  }
  return spread(values);
}

std::string verdict(const Comparison& compared, const Spread& a, const Spread& b,
                    std::string (*text)(const Spread&)) {
  return common::verdict(compared.better, a, compared.worse, b, text, compared.or_equal);
}

std::string verdict(const Comparison& compared, const Spread& a, const Spread& b) {
  std::string of;
  for (const auto& column : compared.columns) of += (of.empty() ? "" : ", ") + column;
  return (of.empty() ? "" : "on " + of + " ") + verdict(compared, a, b, percent);
}

std::string heading(const Study& study, const PlotOptions& options) {
  return "set title " + quoted(options.title.empty() ? study.title : options.title) +
         " font ',14' offset 0,0.3 tc rgb '" + ink + "'\n";
}

// Rows one below the other. The data stand in the script: the CSV holds the single runs.
std::string points_script(const std::string& name, const Results& results, const PlotOptions& options) {
  const auto& rows = results.study.rows;
  std::size_t longest = 0;
  for (const auto& row : rows) longest = std::max(longest, text_width(row.name));
  const auto count = rows.size();
  auto script =
      script_head(name, 900, 130 + 34 * static_cast<int>(count), 11) + heading(results.study, options);
  script += "set lmargin " + std::to_string(longest + 4) +
            "\nset xlabel 'exact match, per cent (mean over tasks)'\n";
  script += "set xrange [0:100]\nset yrange [" + number(static_cast<double>(count) - 0.4) + ":-0.6]\n";
  script +=
      "set grid xtics lc rgb '#dddddd' lw 1 lt 1\nset border 1\nset tics nomirror scale 0.5 out\nunset key\n";
  std::string tics, means = "$means << EOD\n", seeds = "$seeds << EOD\n";
  for (std::size_t r = 0; r < count; ++r) {
    tics += (r == 0 ? "" : ", ") + quoted(rows[r].name) + " " + std::to_string(r);
    const auto s = average(results, r);
    const double low = mole::is_nan(s.deviation) ? s.mean : s.mean - s.deviation;
    const double high = mole::is_nan(s.deviation) ? s.mean : s.mean + s.deviation;
    means += csv_number(100 * s.mean) + "," + std::to_string(r) + "," + csv_number(100 * low) + "," +
             csv_number(100 * high) + "," + percent(s) + "\n";
    for (const auto& seed : results.rates[r])
      seeds += csv_number(100 * mean_of(seed)) + "," + std::to_string(r) + "\n";
  }
  script += "set ytics (" + tics + ") scale 0\n" + means + "EOD\n" + seeds + "EOD\n";
  script += std::string(
                "plot $seeds using 1:2 with points pt 7 ps 0.9 lc rgb '#b00072b2', \\\n"
                "     $means using 1:2:3:4 with xerrorbars pt 7 ps 1.2 lw 2 lc rgb '#0072b2', \\\n"
                "     $means using ($4 > 84 ? $3 - 2 : NaN):2:5 with labels right tc rgb '") +
            ink + "', \\\n     $means using ($4 > 84 ? NaN : $4 + 2):2:5 with labels left tc rgb '" + ink +
            "'\n";
  return script;
}

// A line a row over the number of experts.
std::string lines_script(const std::string& name, const Results& results, const PlotOptions& options) {
  const auto& study = results.study;
  auto script = script_head(name, 900, 520, 11) + heading(study, options);
  script +=
      "set xlabel 'experts'\nset ylabel 'exact match, per cent'\nset logscale x 2\nset yrange [0:100]\n";
  script += "set grid ytics lc rgb '#dddddd' lw 1 lt 1\nset border 3\nset tics nomirror scale 0.5 out\n";
  script += "set key outside right center Left reverse samplen 1.6 spacing 1.25\nset xtics (";
  for (std::size_t c = 0; c < study.columns.size(); ++c)
    script += (c == 0 ? "" : ", ") + quoted(study.columns[c]) + " " + study.columns[c];
  script += ")\nset xrange [" + number(0.8 * std::stod(study.columns.front())) + ":" +
            number(1.25 * std::stod(study.columns.back())) + "]\n";
  std::string plot;
  for (std::size_t r = 0; r < study.rows.size(); ++r) {
    const auto block = "$row" + std::to_string(r);
    script += block + " << EOD\n";
    for (std::size_t c = 0; c < study.columns.size(); ++c) {
      const auto s = of_column(results, r, c);
      script += study.columns[c] + "," + csv_number(100 * s.mean) + "," +
                csv_number(mole::is_nan(s.deviation) ? 0 : 100 * s.deviation) + "\n";
    }
    script += "EOD\n";
    plot += std::string(r == 0 ? "plot " : ", \\\n     ") + block +
            " using 1:2:3 with yerrorlines pt 7 ps 1.1 lw 2.2 lc rgb '" +
            line_colours[r % line_colours.size()] + "' title " + quoted(study.rows[r].name);
  }
  return script + plot + "\n";
}

}  // namespace

Spread average(const Results& results, std::size_t row) {
  std::vector<double> values;
  for (const auto& seed : results.rates.at(row)) values.push_back(mean_of(seed));
  return spread(values);
}

std::string markdown(const Results& results) {
  const auto& study = results.study;
  const bool counts = counts_experts(study);
  std::string text = "## " + study.title + "\n\n";
  if (!study.claim.empty()) text += "The paper: " + study.claim + "\n\n";
  if (!study.note.empty()) text += study.note + "\n\n";
  text += "| |";
  std::string rule = "|---|";
  for (const auto& column : study.columns)
    text += " " + column + (counts ? " experts |" : " |"), rule += "---|";
  text += (counts ? "\n" : " average |\n") + rule + (counts ? "\n" : "---|\n");
  for (std::size_t r = 0; r < study.rows.size(); ++r) {
    text += "| " + study.rows[r].name + " |";
    for (std::size_t c = 0; c < study.columns.size(); ++c) {
      const auto s = of_column(results, r, c);
      text += " " + (counts ? percent(s) : percent(s.mean)) + " |";
    }
    text += counts ? "\n" : " " + percent(average(results, r)) + " |\n";
  }
  if (!study.greater.empty()) text += "\nHere:\n\n";
  for (const auto& compared : study.greater) {
    const auto a = row_named(study, compared.better), b = row_named(study, compared.worse);
    if (!counts) {
      text += "- " +
              verdict(compared, average_of(results, a, compared.columns),
                      average_of(results, b, compared.columns)) +
              "\n";
      continue;
    }
    for (std::size_t c = 0; c < study.columns.size(); ++c)
      text += "- " + study.columns[c] +
              " experts: " + verdict(compared, of_column(results, a, c), of_column(results, b, c)) + "\n";
  }
  return text;
}

std::string entropy_markdown(const StudyRun& run) {
  const auto& study = run.results.study;
  std::vector<Spread> last;
  std::string text =
      "Entropy of the gates after training, in nats (ln of the number of experts at most):\n\n";
  for (std::size_t r = 0; r < study.rows.size(); ++r) {
    std::vector<double> values;
    for (const auto& seed : run.entropies[r]) values.push_back(seed.back());
    last.push_back(spread(values));
    text += "- " + study.rows[r].name + ": " + nats(last.back()) + "\n";
  }
  text += "\nHere:\n\n";
  for (const auto& compared : study.greater_entropy)
    text += "- " +
            verdict(compared, last[row_named(study, compared.better)], last[row_named(study, compared.worse)],
                    nats) +
            "\n";
  return text;
}

std::string csv(const Results& results) {
  std::string text = "row,seed";
  for (const auto& column : results.study.columns) text += "," + mole::csv_field(column);
  text += ",average\n";
  for (std::size_t r = 0; r < results.rates.size(); ++r) {
    for (std::size_t s = 0; s < results.rates[r].size(); ++s) {
      text += mole::csv_field(results.study.rows[r].name) + "," + std::to_string(s + 1);
      for (const double rate : results.rates[r][s]) text += "," + csv_number(100 * rate);
      text += "," + csv_number(100 * mean_of(results.rates[r][s])) + "\n";
    }
  }
  for (const bool deviation : {false, true})
    for (std::size_t r = 0; r < results.rates.size(); ++r) {
      const auto value = [&](const Spread& s) {
        return "," + csv_number(100 * (deviation ? s.deviation : s.mean));
      };
      text += mole::csv_field(results.study.rows[r].name) + (deviation ? ",deviation" : ",mean");
      for (std::size_t c = 0; c < results.study.columns.size(); ++c) text += value(of_column(results, r, c));
      text += value(average(results, r)) + "\n";
    }
  return text;
}

Plot plot_study(const std::filesystem::path& folder, const std::string& name, const Results& results,
                const PlotOptions& options) {
  const auto script = counts_experts(results.study) ? lines_script(name, results, options)
                                                    : points_script(name, results, options);
  return draw(folder, name, csv(results), script, options);
}

}  // namespace numbers
