#pragma once
// The numbers of a run's loss.csv.

#include <sstream>
#include <string>
#include <vector>

#include "examples_common/folder.hpp"

namespace program_test {

/// All numbers behind the first line and the first column, line by line.
inline std::vector<double> series_of(const std::string& path) {
  std::istringstream lines(common_test::contents(path));
  std::vector<double> values;
  std::string line, cell;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream cells(line);
    std::getline(cells, cell, ',');
    while (std::getline(cells, cell, ',')) values.push_back(std::stod(cell));
  }
  return values;
}

}  // namespace program_test
