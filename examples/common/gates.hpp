#pragma once
// Which experts the gates of a pass used, as text.

#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/gate_statistics.hpp>
#include <mole/experts/mixer.hpp>

namespace common {

/// The mean weight of each expert at one gate.
struct MeanGate {
  std::string scope;
  std::vector<double> weights;  ///< one an expert of the model; NaN where the gate lacks it
};

/// The mean of each gate over the rows (sequences, or real tokens) of a pass.
template <class T, class B>
std::vector<MeanGate> mean_gates(const mole::Mixer<T, B>& mixer, const mole::MolePass<T, B>& pass) {
  std::vector<MeanGate> gates;
  for (const auto& statistics : mole::gate_statistics(mixer.records(pass))) {
    MeanGate gate{statistics.name, std::vector<double>(static_cast<std::size_t>(mixer.n_experts()),
                                                       std::numeric_limits<double>::quiet_NaN())};
    const auto load = statistics.load();
    for (std::size_t i = 0; i < load.size(); ++i)
      gate.weights[static_cast<std::size_t>(statistics.experts[i])] = load[i];
    gates.push_back(std::move(gate));
  }
  return gates;
}

/// The gates as text: a scope a line, experts by falling weight in per cent.
std::string gate_text(const std::vector<MeanGate>& gates, const std::vector<std::string>& experts);

/// For mole::Mixer::set_mask(): false for the experts that --mask names. Throws mole::ArgumentError for a name that is
/// not an expert's, with those that are.
std::vector<bool> all_but(const std::vector<std::string>& masked, const std::vector<std::string>& experts);

}  // namespace common
