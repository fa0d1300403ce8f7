#pragma once
// What gates decide, as numbers for tables and pictures.

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

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

/// Calls f(row) with the weights of each row (a sequence, or a real token) of a gate.
template <class B, class F>
void for_each_row(const mole::GateRecord<Scalar, B>& record, F f) {
  const auto values = record.value.weights.to_host();
  const auto mask = record.row_mask.defined() ? record.row_mask.to_host() : std::vector<Scalar>();
  const std::size_t n = record.experts.size();
  for (std::size_t r = 0; r * n < values.size(); ++r)
    if (mask.empty() || mask[r] != 0) f(values.data() + r * n);
}

/// The mean of each gate over the rows (sequences, or real tokens) of a pass.
template <class B>
std::vector<MeanGate> mean_gates(const mole::Mixer<Scalar, B>& mixer, const Pass<B>& pass) {
  std::vector<MeanGate> gates;
  for (const auto& record : mixer.records(pass)) {
    MeanGate gate{record.name, std::vector<double>(static_cast<std::size_t>(mixer.n_experts()),
                                                   std::numeric_limits<double>::quiet_NaN())};
    std::vector<double> sums(record.experts.size());
    double rows = 0;
    for_each_row(record, [&](const Scalar* row) {
      for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += static_cast<double>(row[i]);
      ++rows;
    });
    for (std::size_t i = 0; i < sums.size(); ++i)
      gate.weights[static_cast<std::size_t>(record.experts[i])] = sums[i] / rows;
    gates.push_back(std::move(gate));
  }
  return gates;
}

/// The entropy of a pass's gates in nats, -sum g ln g, averaged over each gate's rows; one value a gate.
template <class B>
std::vector<double> gate_entropies(const mole::Mixer<Scalar, B>& mixer, const Pass<B>& pass) {
  std::vector<double> entropies;
  for (const auto& record : mixer.records(pass)) {
    double sum = 0, rows = 0;
    for_each_row(record, [&](const Scalar* row) {
      for (std::size_t i = 0; i < record.experts.size(); ++i)
        if (row[i] > 0) sum -= static_cast<double>(row[i]) * std::log(static_cast<double>(row[i]));
      ++rows;
    });
    entropies.push_back(rows > 0 ? sum / rows : 0);
  }
  return entropies;
}

/// Mean gates on each task's examples, read by teacher forcing.
template <class B>
GateHeat gate_heat(mole::T5<Scalar, B>& model, const std::vector<Task>& tasks,
                   const std::vector<std::vector<Example>>& sets) {
  GateHeat heat;
  heat.experts = model.mixer().names();
  const mole::NoGrad off;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    Pass<B> pass;
    model.logits(batch_for(model, sets[i]), pass);
    heat.tasks.push_back(tasks[i].name());
    heat.scopes.clear();
    for (const auto& gate : mean_gates(model.mixer(), pass)) {
      heat.scopes.push_back(gate.scope);
      heat.values.insert(heat.values.end(), gate.weights.begin(), gate.weights.end());
    }
  }
  return heat;
}

}  // namespace numbers
