// The figures that come beside the tables.

#include <utility>

#include "numbers/tables/tables.hpp"

namespace numbers {

Plot plot_entropies(const std::filesystem::path& folder, const Study& study,
                    const std::vector<std::vector<std::vector<double>>>& by_row_and_seed) {
  Curves curves;
  for (std::size_t r = 0; r < study.rows.size(); ++r) {
    const auto& seeds = by_row_and_seed[r];
    std::vector<double> mean(seeds.front().size());
    for (const auto& seed : seeds)
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += seed[i] / static_cast<double>(seeds.size());
    curves.series.emplace_back(study.rows[r].name, std::move(mean));
  }
  for (std::size_t i = 0; i < curves.series.front().second.size(); ++i)
    curves.step.push_back(static_cast<double>(i + 1));
  const auto experts = static_cast<int>(study.rows.front().cells.front().experts.size());
  return plot_entropy(folder, "fig5", curves, experts,
                      {.title = "Figure 5: gate entropy, with and without the balance loss"});
}

Plot plot_rates(const std::filesystem::path& folder, const std::string& name, const Results& results) {
  GateHeat heat{{}, results.study.columns, {"exact match"}, {}};
  for (std::size_t r = 0; r < results.study.rows.size(); ++r) {
    heat.scopes.push_back(results.study.rows[r].name);
    for (std::size_t c = 0; c < results.study.columns.size(); ++c) {
      double sum = 0;
      for (const auto& seed : results.rates[r]) sum += seed[c];
      heat.values.push_back(sum / static_cast<double>(results.rates[r].size()));
    }
  }
  return plot_gates(
      folder, name, heat,
      {.title = results.study.title, .subtitle = "share of held-out numbers translated exactly"});
}

}  // namespace numbers
