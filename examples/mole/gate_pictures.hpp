#pragma once
// What gates decide on a task's examples, for tables, pictures and adapters made of them.

#include <string>
#include <vector>

#include <mole/experts/gate_statistics.hpp>

#include "common/gates.hpp"
#include "common/plots.hpp"
#include "mole/judging.hpp"
#include "mole/language_model.hpp"

namespace program {

/// What the attached gates decide on examples, run in batches.
std::vector<mole::GateStatistics> gate_statistics(const LanguageModel& model,
                                                  const std::vector<mole::CausalExample>& examples,
                                                  Index batch);

/// The mean weight of each of N experts at each gate.
std::vector<common::MeanGate> mean_gates(const std::vector<mole::GateStatistics>& statistics,
                                         std::size_t n_experts);

/// What gates decided on each task's examples.
struct JudgedGates {
  common::GateHeat heat;                         ///< means by task
  common::ExpertLoads loads;                     ///< by task and over all of them: means over the gates
  std::vector<mole::GateStatistics> statistics;  ///< over all tasks
};

/// The attached gates on each set's examples.
JudgedGates judge_gates(const LanguageModel& model, const std::vector<TestSet>& sets, Index batch);

}  // namespace program
