// `mole compose --prompts` as several processes under mpirun.

#include <string>

#include "examples_common/curves.hpp"
#include "mole_program/studio.hpp"

using namespace program_test;

namespace {

/// `count` processes that mpirun starts compose pictures in a folder of their own.
Result composed_together(int count, const std::string& out, const Arguments& more = {}) {
  static const Runner mpi(MOLE_MPIRUN, "mole-compose-ranks-test");
  const auto& shop = composing_studio();
  auto command = compose_pictures(shop / out, "6");
  for (const std::string option : {"--base", "--clip", "--prompts"})
    command = with(command, option,
                   shop / (option == "--base"   ? "sd"
                           : option == "--clip" ? "clip"
                                                : "prompts.jsonl"));
  command = with(command, "--batch", "3") + more;
  return mpi.run(processes(count, MOLE_PROGRAM,
                           command + Arguments{"--only-mole", "--sheet", "1", "--pictures", shop / "cats",
                                               "--pictures-weight", "2"}));
}

}  // namespace

TEST_CASE("Three processes train the gates over pictures that one does, and the first alone prints") {
  REQUIRE(composed_together(1, "together-1").code == 0);
  const auto result = composed_together(3, "together-3", {"--input-scale", "unit"});
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const auto title = result.out.find("Gates, table and pictures");
  CHECK(title != std::string::npos);
  CHECK(result.out.find("Gates, table and pictures", title + 1) == std::string::npos);
  const auto& shop = composing_studio();
  CHECK(worst_difference(shop / "together-1/loss.csv", shop / "together-3/loss.csv", 6 * 4) <= 1e-4);
}

TEST_CASE("With fixed shards one process and two write the same gates over pictures") {
  const Arguments shards{"--fixed-shards", "2", "--input-scale", "standardised"};
  REQUIRE(composed_together(1, "cut-1", shards).code == 0);
  const auto result = composed_together(2, "cut-2", shards);
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const auto& shop = composing_studio();
  for (const std::string file : {"/gates.safetensors", "/loss.csv", "/table.csv"}) {
    CAPTURE(file);
    const auto want = contents(shop / ("cut-1" + file));
    CHECK(want.size() > 20);
    const bool same = contents(shop / ("cut-2" + file)) == want;
    CHECK(same);
  }
}
