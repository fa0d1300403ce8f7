// What a study leaves in the output folder: its page, its CSV and its pictures, and one page over all.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "common/files.hpp"
#include "numbers/tables/report.hpp"

namespace numbers {

namespace {

std::string file_name(const Study& study) {
  const bool table = study.name.find_first_not_of("0123456789") == study.name.npos;
  return (table ? "table" : "") + study.name;
}

// Figure 5: a line a row, the mean over gates and seeds.
common::Plot plot_entropies(const std::filesystem::path& folder, const StudyRun& run) {
  const auto& rows = run.results.study.rows;
  mole::Curves curves;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const auto& seeds = run.entropies[r];
    std::vector<double> mean(seeds.front().size());
    for (const auto& seed : seeds)
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += seed[i] / static_cast<double>(seeds.size());
    curves.series.emplace_back(rows[r].name, std::move(mean));
  }
  for (std::size_t i = 0; i < curves.series.front().second.size(); ++i)
    curves.step.push_back(static_cast<double>(i + 1));
  return common::plot_entropy(folder, "fig5", curves,
                              static_cast<int>(rows.front().cells.front().experts.size()),
                              {.title = "Figure 5: gate entropy, with and without the balance loss"});
}

// Figure 8: exact match, a row a masked expert, the mean over seeds.
common::Plot plot_masks(const std::filesystem::path& folder, const Results& results) {
  const auto& study = results.study;
  common::GateHeat heat{{}, study.columns, {"exact match"}, {}};
  for (std::size_t r = 0; r < study.rows.size(); ++r) {
    heat.scopes.push_back(study.rows[r].name);
    for (std::size_t c = 0; c < study.columns.size(); ++c) {
      double sum = 0;
      for (const auto& seed : results.rates[r]) sum += seed[c];
      heat.values.push_back(sum / static_cast<double>(results.rates[r].size()));
    }
  }
  return common::plot_gates(
      folder, "fig8-masks", heat,
      {.title = study.title, .subtitle = "share of held-out numbers translated exactly"});
}

std::vector<common::Plot> pictures(const std::filesystem::path& folder, const StudyRun& run) {
  const auto& study = run.results.study;
  std::vector<common::Plot> plots{plot_study(folder, file_name(study), run.results)};
  if (study.name == "7") plots.push_back(plot_entropies(folder, run));
  if (study.name == "fig8") plots.push_back(plot_masks(folder, run.results));
  if (study.name == "9")
    for (std::size_t r = 0; r < study.rows.size(); ++r)
      plots.push_back(common::plot_gates(
          folder, "fig7-" + std::string(to_string(study.rows[r].cells.front().gates.scope)), run.heats[r],
          {.title = "Figure 7: gates of " + study.rows[r].name + ", one panel a task"}));
  return plots;
}

}  // namespace

void write_study(const std::filesystem::path& folder, const StudyRun& run) {
  auto text = markdown(run.results);
  if (!run.results.study.greater_entropy.empty()) text += "\n" + entropy_markdown(run);
  std::cout << text << "\n";
  for (const auto& plot : pictures(folder, run)) {
    report(plot);
    if (!plot.picture.empty()) {
      const auto name = plot.picture.filename().string();
      text += "\n![" + name + "](" + name + ")\n";
    }
  }
  common::write_text(folder / (file_name(run.results.study) + ".md"), text);
  std::cout << std::endl;
}

void write_overview(const std::filesystem::path& folder, const std::vector<Study>& studies) {
  std::string text =
      "# The paper's studies on the numbers problem\n\n"
      "Exact match in per cent on held-out numbers, the mean over seeds ± their standard deviation. A seed "
      "has "
      "its own\nfew-shot examples, order of batches, search and held-out numbers; base and experts are the "
      "same "
      "for all.\nA comparison *holds* where the difference of the means exceeds both deviations.\n";
  for (const auto& study : studies) {
    std::ifstream in(folder / (file_name(study) + ".md"), std::ios::binary);
    if (in) text += "\n" + std::string{std::istreambuf_iterator<char>(in), {}};
  }
  common::write_text(folder / "README.md", text);
}

}  // namespace numbers
