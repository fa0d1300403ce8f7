#include "numbers/gates.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>

#include "numbers/files.hpp"
#include "numbers/split.hpp"

namespace numbers {

namespace {

/// Calls f(row) with the weights of each row that counts.
template <class F>
void for_each_row(const mole::GateRecord<Scalar, B>& record, F f) {
  const auto values = record.value.weights.to_host();
  const auto mask = record.row_mask.defined() ? record.row_mask.to_host() : std::vector<Scalar>();
  const std::size_t n = record.experts.size();
  for (std::size_t r = 0; r * n < values.size(); ++r)
    if (mask.empty() || mask[r] != 0) f(values.data() + r * n);
}

}  // namespace

std::vector<MeanGate> mean_gates(const Model& model, const Pass& pass) {
  std::vector<MeanGate> gates;
  for (const auto& record : model.layers().mixer->records(pass)) {
    MeanGate gate{record.name,
                  std::vector<double>(static_cast<std::size_t>(model.layers().mixer->n_experts()),
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

std::vector<double> gate_entropies(const Model& model, const Pass& pass) {
  std::vector<double> entropies;
  for (const auto& record : model.layers().mixer->records(pass)) {
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

GateHeat gate_heat(const Model& model, const std::vector<Task>& tasks, Index count) {
  GateHeat heat;
  heat.experts = model.layers().mixer->names();
  const mole::NoGrad off;
  for (const auto& task : tasks) {
    Pass pass;
    model.logits(batch_for(model, held_out_examples(task, count)), pass);
    heat.tasks.push_back(task.name());
    heat.scopes.clear();
    for (const auto& gate : mean_gates(model, pass)) {
      heat.scopes.push_back(gate.scope);
      heat.values.insert(heat.values.end(), gate.weights.begin(), gate.weights.end());
    }
  }
  return heat;
}

std::string gate_text(const std::vector<MeanGate>& gates, const std::vector<std::string>& experts) {
  std::size_t scope_width = 0, expert_width = 0;
  for (const auto& gate : gates) scope_width = std::max(scope_width, text_width(gate.scope));
  for (const auto& expert : experts) expert_width = std::max(expert_width, text_width(expert));
  std::string text;
  for (const auto& gate : gates) {
    std::vector<std::size_t> order(experts.size());
    std::iota(order.begin(), order.end(), 0);
    std::erase_if(order, [&](std::size_t i) { return std::isnan(gate.weights[i]); });
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return gate.weights[a] > gate.weights[b]; });
    text += gate.scope + std::string(scope_width - text_width(gate.scope), ' ');
    for (const auto i : order) {
      char share[16];
      std::snprintf(share, sizeof share, " %3.0f%%", 100 * gate.weights[i]);
      text += "  " + experts[i] + std::string(expert_width - text_width(experts[i]), ' ') + share;
    }
    text += "\n";
  }
  return text;
}

}  // namespace numbers
