#pragma once
// `numbers tables`: the paper's studies, rerun on the numbers problem.

#include <algorithm>
#include <iostream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "common/search.hpp"
#include "numbers/tables/lab.hpp"
#include "numbers/tables/report.hpp"

namespace numbers {

/// Measures a study: all rows of one seed before the next seed, of seeds first to last.
template <class B>
StudyRun run_study(Lab<B>& lab, const Study& study, Index first, Index last) {
  StudyRun run{{study, {}}, {}, {}};
  run.results.rates.resize(study.rows.size());
  run.entropies.resize(study.rows.size());
  run.heats.resize(study.rows.size());
  for (Index seed = first; seed <= last; ++seed) {
    for (std::size_t r = 0; r < study.rows.size(); ++r) {
      std::vector<double> rates;
      for (auto cell : study.rows[r].cells) {
        cell.seed = static_cast<std::uint64_t>(seed);
        const auto row = static_cast<std::size_t>(seed - first) * study.rows.size() + r + 1;
        const auto measured = lab.measure(
            cell, mole::message(study.name + ":", study.rows[r].name + ", seed", seed, "(row", row, "of",
                                study.rows.size() * static_cast<std::size_t>(last - first + 1), ")"));
        std::copy(measured.rates.begin(), measured.rates.end(), std::back_inserter(rates));
        if (!measured.entropy.empty()) run.entropies[r].push_back(measured.entropy);
        if (seed == first) run.heats[r] = measured.heat;
      }
      run.results.rates[r].push_back(std::move(rates));
    }
  }
  return run;
}

/// See study.hpp.
template <class B>
void tables(const TablesOptions& options) {
  const auto studies = chosen_studies(options);
  for (const auto& study : studies)
    for (const auto& row : study.rows)
      for (const auto& cell : row.cells) {
        const Index seeds = options.only_seed > 0 ? options.only_seed : options.seeds;
        MOLE_CHECK_ARG(seeds * cell.test <= 1000, "tables:", seeds, "seeds of", cell.test,
                       "held-out numbers each are more than the 1000 there are; lower --test or the seeds");
        if (cell.method.starts_with("lorahub")) common::check_search();
      }
  Lab<B> lab(options);
  for (const auto& study : studies) {
    if (options.only_seed > 0) {
      run_study(lab, study, options.only_seed, options.only_seed);
      std::cout << study.name << ": the rows of seed " << options.only_seed << " are kept in "
                << options.run.out.string() << "\n";
      continue;
    }
    write_study(options.run.out, run_study(lab, study, 1, options.seeds));
    write_overview(options.run.out, all_studies(options));
  }
}

}  // namespace numbers
