#pragma once
// `numbers tables`: the paper's studies, rerun on the numbers problem.

#include <algorithm>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "numbers/tables/lab.hpp"
#include "numbers/tables/report.hpp"

namespace numbers {

/// Figure 5 beside table 7: the gates' entropy over the steps, a line a row, the mean over gates and seeds.
Plot plot_entropies(const std::filesystem::path& folder, const Study& study,
                    const std::vector<std::vector<std::vector<double>>>& by_row_and_seed);

/// A heat map of rows by columns, the mean over seeds, such as figure 8's.
Plot plot_rates(const std::filesystem::path& folder, const std::string& name, const Results& results);

/// See study.hpp.
template <class B>
void tables(const TablesOptions& options) {
  const auto studies = chosen_studies(options);
  for (const auto& study : studies)
    for (const auto& row : study.rows)
      for (const auto& cell : row.cells)
        MOLE_CHECK_ARG(options.seeds * cell.test <= 1000, "tables:", options.seeds, "seeds of", cell.test,
                       "held-out numbers each are more than the 1000 there are; lower --test or --seeds");
  Lab<B> lab(options);
  for (const auto& study : studies) {
    Results results{study, {}};
    std::vector<std::vector<std::vector<double>>> entropies(study.rows.size());
    results.rates.resize(study.rows.size());
    // All rows of one seed before the next seed: a study that is stopped has whole columns to compare.
    for (Index seed = 1; seed <= options.seeds; ++seed) {
      for (std::size_t r = 0; r < study.rows.size(); ++r) {
        std::vector<double> rates;
        for (auto cell : study.rows[r].cells) {
          cell.seed = static_cast<std::uint64_t>(seed);
          const auto measured =
              lab.measure(cell, study.name + ": " + study.rows[r].name + ", seed " + std::to_string(seed));
          std::copy(measured.rates.begin(), measured.rates.end(), std::back_inserter(rates));
          if (!measured.entropy.empty()) entropies[r].push_back(measured.entropy);
          if (study.name == "9" && seed == 1)
            report(plot_gates(options.run.out, "fig7-" + std::string(to_string(cell.gates.scope)),
                              measured.heat));
        }
        results.rates[r].push_back(std::move(rates));
      }
    }
    const auto name =
        study.name.starts_with("fig") || study.name == "routers" ? study.name : "table" + study.name;
    const auto text = markdown(results);
    write_text(options.run.out / (name + ".md"), text);
    std::cout << text << "\n";
    report(plot_study(options.run.out, name, results));
    if (study.name == "7") report(plot_entropies(options.run.out, study, entropies));
    if (study.name == "fig8") report(plot_rates(options.run.out, "fig8-masks", results));
    std::cout << std::endl;
  }
}

}  // namespace numbers
