// Products with bitsandbytes' weights of 4 bits whose numbers are formed in registers.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/bitsandbytes_numbers.hpp>
#include <mole/nn/few_rows.hpp>

#include "io/folder.hpp"
#include "io/only_unpacked.hpp"
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
    const OnlyUnpacked unpacked(rows);
    const Index d_out = rows->shape()[0], d_in = rows->shape()[1];
    const auto x = quantised_input<float>(d_in).to_host();
    for (const Index tokens : {1, 2, 3, 4}) {
      std::vector<float> y(static_cast<std::size_t>(tokens * d_out), 1), expected = y;
      detail::few_rows_forward(*rows, tokens, x.data(), true, y.data());
      detail::few_rows_forward(unpacked, tokens, x.data(), true, expected.data());
      CHECK(y == expected);
    }
    float four[4][4], fewer[4][4];
    if (!rows->dots({4, 4, 4, x.data(), d_in}, four)) continue;
    ++formed;
    for (const Index n : {1, 2, 3}) {
      REQUIRE(rows->dots({4, n, n, x.data(), d_in}, fewer));
      for (Index t = 0; t < n; ++t)
        for (Index r = 0; r < n; ++r) CHECK(fewer[t][r] == four[t][r]);
    }
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
