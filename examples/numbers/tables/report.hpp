#pragma once
// A study's results as text, CSV and picture, and whether the paper's claim holds in them.

#include <filesystem>
#include <string>
#include <vector>

#include "common/plots.hpp"
#include "common/spread.hpp"
#include "numbers/tables/study.hpp"

namespace numbers {

/// What was measured of a study: [row][seed][column], rates in [0, 1].
struct Results {
  Study study;
  std::vector<std::vector<std::vector<double>>> rates;
};

/// The same with what is drawn beside it.
struct StudyRun {
  Results results;
  std::vector<std::vector<std::vector<double>>> entropies;  ///< [row][seed][step], routers alone
  std::vector<common::GateHeat> heats;                      ///< [row], of the first seed
};

using common::Spread;
using common::spread;

/// Mean and spread of a row's average over the columns.
Spread average(const Results& results, std::size_t row);

/// The study in Markdown: its title, the paper's claim, the table in per cent with the average's spread, and
/// for each comparison of the claim whether it holds here: the difference exceeds both spreads.
std::string markdown(const Results& results);

/// The entropies after training, in Markdown, and whether what the study claims of them holds here.
std::string entropy_markdown(const StudyRun& run);

/// `row,seed,<columns>,average`, in per cent; a line a row and seed, then, as seeds `mean` and `deviation`,
/// two a row (a deviation of one seed is empty).
std::string csv(const Results& results);

/// The rows' averages as points with their spreads, one below the other, each seed a faint point; columns
/// that count experts make a line a row instead. CSV: row,seed,<columns>,average.
common::Plot plot_study(const std::filesystem::path& folder, const std::string& name, const Results& results,
                        const common::PlotOptions& options = {});

/// Writes a study's page NAME.md, its CSV and its pictures, and prints the page.
/// Throws mole::Error when a file cannot be written; missing pictures are only said.
void write_study(const std::filesystem::path& folder, const StudyRun& run);

/// Writes README.md: the pages, in this order, of the studies that have one in the folder.
void write_overview(const std::filesystem::path& folder, const std::vector<Study>& studies);

}  // namespace numbers
