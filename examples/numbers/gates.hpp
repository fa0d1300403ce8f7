#pragma once
// What gates decide, as numbers for tables and pictures.

#include <string>
#include <vector>

#include "numbers/model.hpp"
#include "numbers/plots.hpp"

namespace numbers {

/// The mean weight of each expert at one gate.
struct MeanGate {
  std::string scope;
  std::vector<double> weights;  ///< one an expert of the model; NaN where the gate lacks it
};

/// The mean of each gate over the rows (sequences, or real tokens) of a pass.
std::vector<MeanGate> mean_gates(const Model& model, const Pass& pass);

/// The entropy of a pass's gates in nats, -sum g ln g, averaged over each gate's rows; one value a gate.
std::vector<double> gate_entropies(const Model& model, const Pass& pass);

/// Mean gates on `count` held-out examples of each task, read by teacher forcing.
GateHeat gate_heat(const Model& model, const std::vector<Task>& tasks, Index count);

/// The gates as text: a scope a line, experts by falling weight with a bar each.
std::string gate_text(const std::vector<MeanGate>& gates, const std::vector<std::string>& experts);

}  // namespace numbers
