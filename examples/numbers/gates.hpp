#pragma once
// What gates decide, as numbers for tables and pictures.

#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/gate_csv.hpp>

#include "numbers/model.hpp"
#include "numbers/plots.hpp"

namespace numbers {

/// The mean weight of each expert at one gate.
struct MeanGate {
  std::string scope;
  std::vector<double> weights;  ///< one an expert of the model; NaN where the gate lacks it
};

/// The gates as text: a scope a line, experts by falling weight with a bar each.
std::string gate_text(const std::vector<MeanGate>& gates, const std::vector<std::string>& experts);

/// The mean of each gate over the rows (sequences, or real tokens) of a pass.
template <class B>
std::vector<MeanGate> mean_gates(const mole::Mixer<Scalar, B>& mixer, const Pass<B>& pass) {
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

/// What gates decided on each task's examples.
struct JudgedGates {
  GateHeat heat;                                 ///< means by task
  ExpertLoads loads;                             ///< by task and over all of them: means over the gates
  std::vector<mole::GateStatistics> statistics;  ///< over all tasks
};

/// The gates on each task's examples, read by teacher forcing.
template <class B>
JudgedGates judged_gates(const mole::T5<Scalar, B>& model, const mole::Mixer<Scalar, B>& mixer,
                         const std::vector<Task>& tasks, const std::vector<std::vector<Example>>& sets) {
  JudgedGates judged;
  judged.heat.experts = judged.loads.experts = mixer.names();
  const mole::NoGrad off;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    Pass<B> pass;
    model.logits(batch_for(model, sets[i]), pass);
    const auto records = mixer.records(pass);
    mole::gather_statistics(judged.statistics, records);
    judged.loads.add(tasks[i].name(), mole::expert_load(mole::gate_statistics(records), mixer.n_experts()));
    judged.heat.tasks.push_back(tasks[i].name());
    judged.heat.scopes.clear();
    for (const auto& gate : mean_gates(mixer, pass)) {
      judged.heat.scopes.push_back(gate.scope);
      judged.heat.values.insert(judged.heat.values.end(), gate.weights.begin(), gate.weights.end());
    }
  }
  if (tasks.size() > 1)
    judged.loads.add("all tasks", mole::expert_load(judged.statistics, mixer.n_experts()));
  return judged;
}

/// The gates of one translation as pictures and CSV (token_gates.csv): a row a gate, or for token gates a
/// panel a gate and a row a token. Throws mole::Error when a file cannot be written.
std::vector<Plot> draw_gates(const std::filesystem::path& folder, const std::vector<mole::TokenGate>& rows,
                             const std::vector<std::string>& experts, const std::string& prompt,
                             const std::string& answer);

}  // namespace numbers
