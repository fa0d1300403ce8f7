// `pictures compose` as several processes under mpirun: what they train, who prints and writes, and what one process alone
// may do.

#include <filesystem>
#include <string>

#include "examples_common/curves.hpp"
#include "examples_common/runner.hpp"

namespace pictures::rank_tests {

namespace {

using program_test::Arguments;
using program_test::operator+;
using program_test::contents;
using program_test::holds;
namespace fs = std::filesystem;

const program_test::Runner& mpi() {
  static const program_test::Runner runner(MOLE_MPIRUN, "mole-pictures-ranks-test");
  return runner;
}

/// `count` processes that mpirun starts in a folder of their own.
program_test::Result together(int count, const Arguments& command) {
  return mpi().run(program_test::processes(count, MOLE_PICTURES_PROGRAM, command));
}

/// Two rows of gates, one of them by both losses, with the shipped base: a few steps each, and one prompt of each size.
Arguments composed(const std::string& out) {
  return {"compose",
          "--experts",
          "dog face,pizza",
          "--methods",
          "MoLE network/mean,MoLE layer/token + diffusion",
          "--effort",
          "0.05",
          "--prompts",
          "1",
          "--steps",
          "4",
          "--out",
          out};
}

}  // namespace

TEST_CASE(
    "Three processes train the gates of pictures that one does, and the first alone prints and writes") {
  REQUIRE(together(1, composed("one")).code == 0);
  const auto result = together(3, composed("three"));
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  const auto title = result.out.find("Table, gates and pictures");
  CHECK(title != std::string::npos);
  CHECK(result.out.find("Table, gates and pictures", title + 1) == std::string::npos);
  // Seven steps by loss, clip, diffusion and balance.
  CHECK(program_test::worst_difference(mpi() / "one/loss.csv", mpi() / "three/loss.csv", 7 * 4) <= 1e-4);
  CHECK(contents(mpi() / "three/table.csv").size() > 100);
  CHECK(fs::exists(mpi() / "three/gates-network-mean.safetensors"));
}

TEST_CASE("With fixed shards one process and two write the same bytes of gates, losses and table") {
  const Arguments shards{"--fixed-shards", "2"};
  REQUIRE(together(1, composed("shards-1") + shards).code == 0);
  const auto result = together(2, composed("shards-2") + shards);
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  program_test::check_same_files(
      mpi() / "shards-1", mpi() / "shards-2",
      {"gates.safetensors", "gates-network-mean.safetensors", "loss.csv", "table.csv"});
}

TEST_CASE("What processes cannot share, and what is for one of them, ends all with a message") {
  const auto uneven = together(2, composed("uneven") + Arguments{"--fixed-shards", "3"});
  CHECK(uneven.code != 0);
  CHECK(holds(uneven.err, "multiple of the number of ranks"));
  const auto several = together(2, {"draw", "dog face on red"});
  CHECK(several.code != 0);
  CHECK(holds(several.err, "pictures draw is work for one process"));
}

}  // namespace pictures::rank_tests
