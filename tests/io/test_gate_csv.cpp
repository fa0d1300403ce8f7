// Gates as CSV, from records written by hand.

#include <cmath>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/gate_csv.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;
using Records = std::vector<GateRecord<double, Device>>;
using Row = std::vector<double>;

namespace {

GateRecord<double, Device> record(const std::string& name, const D& g, const D& mask = {},
                                  std::vector<Index> experts = {0, 1},
                                  const std::string& stream = "encoder") {
  return {name, {g, g}, mask, std::move(experts), stream};
}

/// Two sequences at one gate, and real tokens 0, 1 of the first and 0 of the second at another.
Records two_gates() {
  return {record("block.0", D::from({2, 2}, {0.25, 0.75, 1, 0})),
          record("block.1@memory", D::from({2, 2, 2}, {0.5, 0.5, 0, 1, 0.125, 0.875, 9, 9}),
                 D::from({2, 2}, {1, 1, 1, 0}), {0, 2}, "memory")};
}

}  // namespace

TEST_CASE("The CSV has a line for each gate and expert, with names quoted where they must be") {
  std::ostringstream out;
  write_statistics(
      out, gate_statistics<double, Device>({record("s", D::from({2, 2}, {0, 1, 0.5, 0.5}), {}, {0, 2})}),
      {"de", "unused", "en, \"old\""});
  std::ostringstream line;
  line.precision(17);
  line << std::log(2.0) / 2 << ',' << 0.5 << ',' << 0.5;
  CHECK(out.str() ==
        "scope,stream,expert,load,used,first,rows,entropy,normalized_entropy,variation,q\n"
        "s,encoder,de,0.25,1,1,2," +
            line.str() + ",0.25\n" + "s,encoder,\"en, \"\"old\"\"\",0.75,2,1,2," + line.str() + ",0.75\n");
  CHECK(lacks<ArgumentError>(
            [&] {
              write_statistics(out, gate_statistics(two_gates()), {"a", "b"});
            },
            {"expert", "2", "name"}) == "");
}

TEST_CASE("The CSV of tokens leaves padding out and has the caller's text for each token") {
  const auto rows = token_gates(two_gates());
  REQUIRE(rows.size() == 5);
  CHECK(rows[4].sequence == 1);
  CHECK(rows[4].token == 0);
  CHECK(rows[4].weights == Row{0.125, 0.875});
  std::ostringstream out;
  write_token_gates(out, {rows[0], rows[3]}, {"a", "b", "c"},
                    [](const std::string& stream, Index s, Index token) {
                      return token < 0 ? stream : "t" + std::to_string(10 * s + token);
                    });
  CHECK(out.str() ==
        "scope,stream,sequence,token,text,expert,weight\n"
        "block.0,encoder,0,,encoder,a,0.25\n"
        "block.0,encoder,0,,encoder,b,0.75\n"
        "block.1@memory,memory,0,1,t1,a,0\n"
        "block.1@memory,memory,0,1,t1,c,1\n");
}
