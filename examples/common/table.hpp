#pragma once
// The table of results: a row a method, a column a task and their average, in per cent.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"

namespace common {

/// Rows of cells as aligned columns: the first flush left, the others flush right, a rule under the first row. Ends
/// with a line break. What a terminal would obey is shown, and not obeyed.
inline std::string aligned_text(std::vector<std::vector<std::string>> cells) {
  for (auto& line : cells)
    for (auto& cell : line) cell = mole::printable(cell);
  std::vector<std::size_t> widths;
  for (const auto& line : cells) {
    widths.resize(std::max(widths.size(), line.size()));
    for (std::size_t j = 0; j < line.size(); ++j) widths[j] = std::max(widths[j], text_width(line[j]));
  }
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    std::string line;
    for (std::size_t j = 0; j < cells[i].size(); ++j) {
      const std::string gap(widths[j] - text_width(cells[i][j]), ' ');
      line += j == 0 ? cells[i][j] + gap : "  " + gap + cells[i][j];
    }
    out += line + "\n";
    if (i == 0) out += std::string(text_width(line), '-') + "\n";
  }
  return out;
}

/// Exact-match rates by method and task, printed as aligned text and written as CSV.
class ResultTable {
 public:
  /// `columns` are the tasks' names. Throws mole::ArgumentError for none.
  explicit ResultTable(std::vector<std::string> columns) : columns_(std::move(columns)) {
    MOLE_CHECK_ARG(!columns_.empty(), "ResultTable: expected at least one column, got none");
  }

  /// Appends a row; `rates` are fractions in [0, 1], one a column, NaN for what was not measured.
  /// Throws mole::ArgumentError when there are more or fewer than columns.
  void add(std::string method, std::vector<double> rates) {
    MOLE_CHECK_ARG(rates.size() == columns_.size(), "ResultTable: row '" + method + "' has", rates.size(),
                   "values, expected one for each of the", columns_.size(), "columns");
    rows_.emplace_back(std::move(method), std::move(rates));
  }

  std::size_t rows() const { return rows_.size(); }

  /// Mean over the measured tasks of row `row`, a fraction; NaN when there are none.
  double average(std::size_t row) const {
    double sum = 0, count = 0;
    for (const double rate : rows_.at(row).second) {
      if (!mole::is_nan(rate)) sum += rate, ++count;
    }
    return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
  }

  /// Aligned columns with a rule under the head; methods flush left, percentages flush right, "-" for NaN.
  /// Ends with a line break.
  std::string text() const { return aligned_text(formatted("-")); }

  /// RFC 4180 with '\n': `method,<tasks>,average`, percentages with one decimal, empty for NaN.
  std::string csv() const {
    std::string out;
    for (const auto& line : formatted("")) {
      for (std::size_t j = 0; j < line.size(); ++j) out += (j == 0 ? "" : ",") + mole::csv_field(line[j]);
      out += "\n";
    }
    return out;
  }

  /// Writes csv() to `path`, whole or not at all. Throws as write_text.
  void write_csv(const std::filesystem::path& path) const { write_text(path, csv()); }

 private:
  std::vector<std::vector<std::string>> formatted(const char* unmeasured) const {
    const auto percent = [&](double rate) {
      if (mole::is_nan(rate)) return std::string(unmeasured);
      char digits[32];
      std::snprintf(digits, sizeof digits, "%.1f", 100 * rate);
      return std::string(digits);
    };
    std::vector<std::vector<std::string>> cells(1, {"method"});
    cells[0].insert(cells[0].end(), columns_.begin(), columns_.end());
    cells[0].push_back("average");
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      std::vector<std::string> line = {rows_[i].first};
      for (const double rate : rows_[i].second) line.push_back(percent(rate));
      line.push_back(percent(average(i)));
      cells.push_back(std::move(line));
    }
    return cells;
  }

  std::vector<std::string> columns_;
  std::vector<std::pair<std::string, std::vector<double>>> rows_;
};

}  // namespace common
