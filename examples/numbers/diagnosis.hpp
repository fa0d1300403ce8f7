#pragma once
// What limits trained gates (`numbers compose --diagnose`): how far their loss is from that of the experts themselves,
// and which gates give most to another expert than the task's own.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/linear.hpp>
#include <mole/core/scalar.hpp>
#include <mole/experts/gate_statistics.hpp>

#include "common/table.hpp"
#include "numbers/merging.hpp"
#include "numbers/model.hpp"

namespace numbers {

/// A quantity for each task: NaN where it has no expert of its own name.
using ByTask = std::vector<double>;

/// What gates, and experts alone, make of some examples of each task.
struct Diagnosis {
  std::string examples;                    ///< which ones
  std::vector<std::vector<Example>> sets;  ///< by task
  ByTask gates, own;                       ///< the mean loss
  std::vector<std::pair<std::string, ByTask>>
      wrong;  ///< by gate: the share of texts (of tokens for token gates)
};

namespace detail {

inline std::ptrdiff_t own_expert(const std::vector<std::string>& experts, const Task& task) {
  const auto found = std::find(experts.begin(), experts.end(), task.name());
  return found == experts.end() ? -1 : found - experts.begin();
}

}  // namespace detail

/// What the gates make of the examples, the tasks' in `sets`.
template <class B>
Diagnosis diagnose_gates(const Model<B>& model, const std::vector<Task>& tasks, std::string examples,
                         std::vector<std::vector<Example>> sets) {
  const auto& mixer = model.mixer();
  const mole::NoGrad off;
  Diagnosis found;
  found.examples = std::move(examples);
  found.sets = std::move(sets);
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const auto own = detail::own_expert(mixer.names(), tasks[i]);
    const auto& set = found.sets[i];
    double loss = 0;
    std::vector<Index> rows, wrong;
    for (std::size_t first = 0; first < set.size(); first += decode_batch) {
      const auto last = std::min(set.size(), first + decode_batch);
      const std::vector<Example> some(set.begin() + static_cast<std::ptrdiff_t>(first),
                                      set.begin() + static_cast<std::ptrdiff_t>(last));
      Pass<B> pass;
      loss += static_cast<double>(some.size()) *
              static_cast<double>(model.loss(batch_for(model, some), pass).item());
      const auto records = mixer.records(pass);
      rows.resize(records.size());
      wrong.resize(records.size());
      found.wrong.resize(records.size());
      for (std::size_t g = 0; g < records.size(); ++g) {
        found.wrong[g].first = records[g].name;
        for (const auto& row : mole::token_gates<Scalar, B>({records[g]})) {
          const auto most = std::max_element(row.weights.begin(), row.weights.end()) - row.weights.begin();
          ++rows[g];
          wrong[g] += row.experts[static_cast<std::size_t>(most)] != own;
        }
      }
    }
    found.gates.push_back(loss / static_cast<double>(set.size()));
    for (std::size_t g = 0; g < rows.size(); ++g)
      found.wrong[g].second.push_back(own < 0 ? mole::detail::not_a_number<double>()
                                              : static_cast<double>(wrong[g]) / static_cast<double>(rows[g]));
  }
  return found;
}

/// Fills in what each task's own expert alone makes of the same examples. The model must be plain, and is so again
/// afterwards.
template <class B>
void diagnose_experts(Diagnosis& found, Model<B>& model, const std::vector<Task>& tasks,
                      const std::vector<mole::LoraSet>& experts) {
  std::vector<std::string> names;
  for (const auto& expert : experts) names.push_back(expert.name);
  found.own.clear();
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const auto own = detail::own_expert(names, tasks[i]);
    if (own >= 0) mole::merge(model.layers().table, experts[static_cast<std::size_t>(own)]);
    found.own.push_back(own < 0 ? mole::detail::not_a_number<double>() : mean_loss(model, found.sets[i]));
  }
  model.detach();
}

/// The diagnosis as a table, a column a task.
inline std::string text_of(const Diagnosis& found, const std::vector<Task>& tasks) {
  std::vector<std::vector<std::string>> cells(1, std::vector<std::string>{found.examples});
  for (const auto& task : tasks) cells[0].push_back(task.name());
  cells[0].push_back("average");
  const auto line = [&](const std::string& name, const ByTask& values, const char* format, double factor) {
    cells.push_back({name});
    double sum = 0;
    for (const double value : values) sum += value / static_cast<double>(values.size());
    auto all = values;
    all.push_back(sum);
    for (const double value : all) {
      char digits[32];
      std::snprintf(digits, sizeof digits, format, factor * value);
      cells.back().push_back(mole::is_nan(value) ? "-" : digits);
    }
  };
  line("loss, gates", found.gates, "%.4f", 1);
  line("loss, the task's own expert", found.own, "%.4f", 1);
  for (const auto& [gate, shares] : found.wrong) line("% to another, " + gate, shares, "%.1f", 100);
  return common::aligned_text(cells);
}

}  // namespace numbers
