#pragma once
// What a run measures, step by step.

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// What one step measured: names and values.
using Measures = std::vector<std::pair<std::string, double>>;

/// Lines over the steps of a run.
struct Curves {
  std::vector<double> step;                                         ///< x, increasing
  std::vector<std::pair<std::string, std::vector<double>>> series;  ///< name and y, one value a step

  /// Appends the measures of step `index` = 0, 1, .. at x = index + 1. The first step names the series.
  /// Throws ArgumentError where a later step measures something else.
  void add(Index index, const Measures& measures) {
    if (step.empty() && series.empty())
      for (const auto& [name, value] : measures) series.emplace_back(name, std::vector<double>());
    MOLE_CHECK_ARG(measures.size() == series.size(), "Curves: step", index + 1, "measured", measures.size(),
                   "values, where the steps before it have", series.size());
    for (std::size_t i = 0; i < measures.size(); ++i)
      MOLE_CHECK_ARG(measures[i].first == series[i].first, "Curves: step", index + 1, "measured",
                     measures[i].first, "where the steps before it have", series[i].first,
                     "; every step measures the same, in the same order");
    step.push_back(static_cast<double>(index + 1));
    for (std::size_t i = 0; i < measures.size(); ++i) series[i].second.push_back(measures[i].second);
  }
};

}  // namespace mole
