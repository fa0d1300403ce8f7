#include "mole/gate_pictures.hpp"

#include <cstddef>
#include <limits>
#include <utility>

#include "mole/token_examples.hpp"

namespace program {

namespace {

/// Adds the counts of one set of examples to those of all.
void add(std::vector<mole::GateStatistics>& all, const std::vector<mole::GateStatistics>& some) {
  if (all.empty()) {
    all = some;
    return;
  }
  for (std::size_t g = 0; g < all.size(); ++g) {
    auto& sum = all[g];
    const auto& own = some.at(g);
    sum.rows += own.rows;
    sum.decided += own.decided;
    sum.entropy_sum += own.entropy_sum;
    for (std::size_t i = 0; i < sum.weight_sum.size(); ++i) {
      sum.weight_sum[i] += own.weight_sum[i];
      sum.dense_sum[i] += own.dense_sum[i];
      sum.used[i] += own.used[i];
      sum.first[i] += own.first[i];
    }
  }
}

}  // namespace

std::vector<mole::GateStatistics> gate_statistics(const LanguageModel& model,
                                                  const std::vector<mole::CausalExample>& examples,
                                                  Index batch) {
  std::vector<mole::GateStatistics> all;
  for (const auto& some : in_batches(examples, batch)) model.gather_gates(some, all);
  return all;
}

std::vector<common::MeanGate> mean_gates(const std::vector<mole::GateStatistics>& statistics,
                                         std::size_t n_experts) {
  std::vector<common::MeanGate> gates;
  for (const auto& gate : statistics) {
    common::MeanGate mean{gate.name,
                          std::vector<double>(n_experts, std::numeric_limits<double>::quiet_NaN())};
    const auto load = gate.load();
    for (std::size_t i = 0; i < load.size(); ++i)
      mean.weights[static_cast<std::size_t>(gate.experts[i])] = load[i];
    gates.push_back(std::move(mean));
  }
  return gates;
}

JudgedGates judge_gates(const LanguageModel& model, const std::vector<TestSet>& sets, Index batch) {
  JudgedGates judged;
  judged.heat.experts = judged.loads.experts = model.experts();
  const auto n = static_cast<Index>(model.experts().size());
  for (const auto& set : sets) {
    const auto own = gate_statistics(model, set.tokens, batch);
    add(judged.statistics, own);
    judged.loads.add(set.task, mole::expert_load(own, n));
    judged.heat.tasks.push_back(set.task);
    judged.heat.scopes.clear();
    for (const auto& gate : mean_gates(own, model.experts().size())) {
      judged.heat.scopes.push_back(gate.scope);
      judged.heat.values.insert(judged.heat.values.end(), gate.weights.begin(), gate.weights.end());
    }
  }
  if (sets.size() > 1) judged.loads.add("all tasks", mole::expert_load(judged.statistics, n));
  return judged;
}

}  // namespace program
