#pragma once
// What two runs wrote: the numbers of their loss.csv, and the bytes of their files.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

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

/// The largest difference between the numbers of two runs, of which there are as many: at least `least`.
inline double worst_difference(const std::string& one, const std::string& other, std::size_t least) {
  const auto a = series_of(one), b = series_of(other);
  REQUIRE(a.size() >= least);
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

/// Checks that two folders hold the same bytes in these files.
inline void check_same_files(const std::string& one, const std::string& other,
                             const std::vector<std::string>& files) {
  for (const auto& file : files) {
    CAPTURE(file);
    const auto want = common_test::contents(one + "/" + file);
    CHECK(want.size() > 20);
    const bool same = common_test::contents(other + "/" + file) == want;
    CHECK(same);
  }
}

}  // namespace program_test
