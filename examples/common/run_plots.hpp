#pragma once
// The pictures that every training run of gates draws.

#include <filesystem>
#include <vector>

#include "common/plots.hpp"

namespace common {

/// Gates, the experts' load, and where gates were trained their entropy and the losses over the steps: gates, load,
/// entropy and loss in the folder. `curves` has "loss", other losses, and "entropy GATE". Throws as plot_gates.
std::vector<Plot> plot_run(const std::filesystem::path& folder, const GateHeat& heat,
                           const ExpertLoads& loads, const mole::Curves& curves);

}  // namespace common
