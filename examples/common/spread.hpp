#pragma once
// Means over seeds with their spread, and what a difference of two means says.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/scalar.hpp>

#include "common/gnuplot.hpp"

namespace common {

/// Mean over seeds, and their standard deviation (n - 1; NaN for one seed).
struct Spread {
  double mean = 0, deviation = 0;
};

/// Throws mole::ArgumentError for no value.
inline Spread spread(const std::vector<double>& values) {
  MOLE_CHECK_ARG(!values.empty(), "spread: expected at least one value");
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / static_cast<double>(values.size());
  if (values.size() == 1) return {mean, std::nan("")};
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / static_cast<double>(values.size() - 1))};
}

/// "72.3 ± 1.2", or "72.3" of one seed; the format is of a double.
inline std::string with_deviation(const Spread& s, double factor, const char* format) {
  return number(factor * s.mean, format) +
         (mole::is_nan(s.deviation) ? "" : " ± " + number(factor * s.deviation, format));
}

/// Whether "a is above b" holds: the difference exceeds both deviations. "holds: A 72.3 ± 1.2 > B 10.0 ± 2.0".
/// With or_equal, no less up to the spread is enough.
inline std::string verdict(const std::string& better, const Spread& a, const std::string& worse,
                           const Spread& b, std::string (*text)(const Spread&), bool or_equal = false) {
  const double noise = std::max(
      {0.0, mole::is_nan(a.deviation) ? 0 : a.deviation, mole::is_nan(b.deviation) ? 0 : b.deviation});
  const double difference = a.mean - b.mean;
  const auto* word = difference > noise || (or_equal && difference >= -noise) ? "holds"
                     : difference < -noise                                    ? "does not hold"
                                                                              : "within the spread";
  const auto* sign = difference > noise ? " > " : difference < -noise ? " < " : " ≈ ";
  return std::string(word) + ": " + better + " " + text(a) + sign + worse + " " + text(b);
}

}  // namespace common
