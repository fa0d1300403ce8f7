#include "common/run_plots.hpp"

#include <string>

namespace common {

std::vector<Plot> plot_run(const std::filesystem::path& folder, const GateHeat& heat,
                           const ExpertLoads& loads, const mole::Curves& curves) {
  mole::Curves losses{curves.step, {}}, entropies{curves.step, {}};
  const std::string prefix = "entropy ";
  for (const auto& [name, series] : curves.series) {
    if (name.starts_with(prefix))
      entropies.series.emplace_back(name.substr(prefix.size()), series);
    else
      losses.series.emplace_back(name == "loss" ? "total" : name, series);
  }
  const auto experts = static_cast<int>(heat.experts.size());
  std::vector<Plot> plots{plot_gates(folder, "gates", heat), plot_load(folder, "load", loads)};
  if (!curves.step.empty()) {
    plots.push_back(plot_entropy(folder, "entropy", entropies, experts));
    plots.push_back(plot_loss(folder, "loss", losses, experts));
  }
  return plots;
}

}  // namespace common
