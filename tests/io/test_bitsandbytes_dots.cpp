// Products with bitsandbytes' weights of 4 bits whose numbers are formed in registers.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/bitsandbytes_numbers.hpp>
#include <mole/nn/few_rows.hpp>

#include "io/folder.hpp"
#include "io/packed_dots.hpp"
#include "io/packed_goldens.hpp"
#include "io/quantised.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("Products with weights of 4 bits have the bits of those with unpacked numbers") {
  const Folder folder;
  int formed = 0;
  for (const auto& [label, rows] : packed_goldens(folder)) {
    const std::string name = label;
    CAPTURE(name);
    formed += check_dots(rows);
  }
  if (detail::has_tables_here()) CHECK(formed >= 3);
}

TEST_CASE("Sums of up to sixteen rows are those in double, with every number of rows and tokens") {
  const Index n = 48;
  std::vector<float> w, x;
  for (int i = 0; i < 4 * n; ++i) w.push_back(static_cast<float>(i * 29 % 41 - 20) / 32);
  for (int i = 0; i < 4 * n; ++i) x.push_back(static_cast<float>(i * 31 % 53 - 26) / 32);
  for (Index rows = 1; rows <= 4; ++rows)
    for (Index tokens = 1; tokens <= 4; ++tokens) {
      CAPTURE(rows);
      CAPTURE(tokens);
      const auto check = [&](const std::vector<float>& sums) {
        for (Index r = 0; r < rows; ++r)
          for (Index t = 0; t < tokens; ++t) {
            double expected = 1;
            for (Index j = 0; j < n; ++j)
              expected += static_cast<double>(w[static_cast<std::size_t>(r * n + j)]) *
                          static_cast<double>(x[static_cast<std::size_t>(t * n + j)]);
            CHECK(detail::sum_of_lanes(sums.data() + (r * tokens + t) * 16) == expected);
          }
      };
      // Multiples of 2^-10 whose sums are exact in any order; a sum has 1 in one lane before.
      std::vector<float> start(static_cast<std::size_t>(rows * tokens * 16));
      for (std::size_t i = 0; i < start.size(); i += 16) start[i + 5] = 1;
      auto widest = start, plain = start;
      detail::run_widest<detail::DotTile>(rows, tokens, n, static_cast<const float*>(w.data()), n,
                                          static_cast<const float*>(x.data()), n, widest.data());
      check(widest);
      detail::DotTile::run<detail::InstructionSet::plain>(rows, tokens, n, w.data(), n, x.data(), n,
                                                          plain.data());
      check(plain);
    }
}
