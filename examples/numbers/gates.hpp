#pragma once
// What gates decide, as numbers for tables and pictures.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/io/gate_csv.hpp>

#include "common/gates.hpp"
#include "common/plots.hpp"
#include "numbers/model.hpp"

namespace numbers {

/// What gates decided on each task's examples.
struct JudgedGates {
  common::GateHeat heat;                         ///< means by task
  common::ExpertLoads loads;                     ///< by task and over all of them: means over the gates
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
    for (const auto& gate : common::mean_gates(mixer, pass)) {
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
std::vector<common::Plot> draw_gates(const std::filesystem::path& folder,
                                     const std::vector<mole::TokenGate>& rows,
                                     const std::vector<std::string>& experts, const std::string& prompt,
                                     const std::string& answer);

}  // namespace numbers
