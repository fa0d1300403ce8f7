// `mole compose` as several processes under mpirun: what they train, who prints and writes, and what one process alone
// may do.

#include "mole_program/program.hpp"

#include <string>

#include "examples_common/curves.hpp"

using namespace program_test;

namespace {

/// `count` processes that mpirun starts in a folder of their own.
Result together(int count, const Arguments& command) {
  static const Runner mpi(MOLE_MPIRUN, "mole-lm-ranks-test");
  return mpi.run(processes(count, MOLE_PROGRAM, command));
}

Arguments composed(const std::string& out) {
  const auto& shop = Workshop::get();
  auto command = with(compose(shop / out, "30"), "--base", shop / "base");
  command = with(command, "--experts", (shop / "copy") + "," + (shop / "hello"));
  command = with(command, "--train", shop / "few.jsonl");
  return with(command, "--test", shop / "test.jsonl") + Arguments{"--only-mole"};
}

}  // namespace

TEST_CASE("Three processes train the gates that one does, and the first alone prints") {
  // Without the balance loss: at the start its gradient is zero but for rounding, and AdamW makes full steps of that. Its
  // rule over ranks is tested in double (tests/train), and by the bytes below.
  const Arguments no_balance{"--alpha", "0"};
  REQUIRE(together(1, composed("ranks-1") + no_balance).code == 0);
  const auto result = together(3, composed("ranks-3") + no_balance);
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const auto title = result.out.find("Gates, table and pictures");
  CHECK(title != std::string::npos);
  CHECK(result.out.find("Gates, table and pictures", title + 1) == std::string::npos);
  const auto& shop = Workshop::get();
  CHECK(worst_difference(shop / "ranks-1/loss.csv", shop / "ranks-3/loss.csv", 30) <= 1e-4);
}

TEST_CASE("With fixed shards one process and two write the same bytes") {
  const Arguments shards{"--fixed-shards", "2"};
  REQUIRE(together(1, composed("shards-1") + shards).code == 0);
  const auto result = together(2, composed("shards-2") + shards);
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  check_same_files(Workshop::get() / "shards-1", Workshop::get() / "shards-2",
                   {"gates.safetensors", "loss.csv", "table.csv"});
}

TEST_CASE("An error on all processes is said, and what one process does refuses several") {
  const auto missing = together(2, with(composed("ranks-none"), "--train", "no-such-file.jsonl"));
  CHECK(missing.code != 0);
  CHECK(holds(missing.err, "no-such-file.jsonl"));
  const auto several = together(2, {"generate", "--base", Workshop::get() / "base", "--prompt", "Say 5"});
  CHECK(several.code != 0);
  CHECK(holds(several.err, "mole generate is work for one process"));
}
