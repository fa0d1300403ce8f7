// The numbers program as several processes under mpirun: what they train, who writes, and how they end.

#include "numbers/program.hpp"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <sstream>
#include <string>
#include <vector>

using namespace program_test;

namespace {

/// `compose` as processes that mpirun starts, in a folder of its own. Each leaves its number in pid.RANK.
class Processes : public Runner {
 public:
  static Processes& get() {
    static Processes processes;
    return processes;
  }

  static Arguments started(int count, const Arguments& command) {
    return Arguments{"-np",
                     std::to_string(count),
                     "--oversubscribe",
                     "--allow-run-as-root",
                     "sh",
                     "-c",
                     "echo $$ > pid.$OMPI_COMM_WORLD_RANK.tmp; "
                     "mv pid.$OMPI_COMM_WORLD_RANK.tmp pid.$OMPI_COMM_WORLD_RANK; exec \"$0\" \"$@\"",
                     MOLE_NUMBERS_PROGRAM} +
           command;
  }
  /// Runs, sends `signal` to one of the processes once there is a checkpoint, and waits for the end.
  Result disturbed(int count, const Arguments& command, const std::string& checkpoint, int rank,
                   int signal) const {
    const pid_t child = start(started(count, command));
    for (int wait = 0; wait < 120000 && !fs::exists(*this / checkpoint); ++wait) ::usleep(1000);
    const auto number = contents(*this / ("pid." + std::to_string(rank)));
    REQUIRE(!number.empty());
    ::kill(std::stoi(number), signal);
    return finish(child);
  }

 private:
  Processes() : Runner(MOLE_MPIRUN, "mole-ranks-test") {}
};

Arguments composed(const std::string& out, const std::string& steps) {
  const auto& shop = Workshop::get();
  auto command = with(compose(out, steps), "--base", shop / "base");
  command = with(command, "--experts", (shop / "en-fr") + "," + (shop / "fr-en"));
  return with(command, "--test", "1") + Arguments{"--only-mole"};
}

/// The numbers of a file of comma separated values, behind its first line.
std::vector<double> numbers_of(const std::string& text) {
  std::vector<double> values;
  std::istringstream lines(text.substr(std::min(text.find('\n'), text.size())));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream cells(line);
    for (std::string cell; std::getline(cells, cell, ',');) values.push_back(std::stod(cell));
  }
  return values;
}

double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (auto at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("Three processes have the loss curve of one, and the first alone prints and writes") {
  const auto& shop = Workshop::get();
  const auto& mpi = Processes::get();
  REQUIRE(shop.run(composed("alone", "40"), "/nonexistent").code == 0);
  const auto result = mpi.run(Processes::started(3, composed("together", "40")));
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  CHECK(count_of(result.out, "Exact match in per cent") == 1);
  const auto alone = numbers_of(contents(shop / "alone/loss.csv")),
             together = numbers_of(contents(mpi / "together/loss.csv"));
  REQUIRE(alone.size() >= 80);
  CHECK(worst_difference(together, alone) <= 1e-4);
  CHECK(contents(mpi / "together/gates.safetensors").size() ==
        contents(shop / "alone/gates.safetensors").size());
}

TEST_CASE("With fixed shards one process and two write the same bytes") {
  const auto& shop = Workshop::get();
  const auto& mpi = Processes::get();
  const Arguments shards{"--fixed-shards", "2"};
  REQUIRE(shop.run(composed("fixed", "15") + shards, "/nonexistent").code == 0);
  const auto result = mpi.run(Processes::started(2, composed("fixed", "15") + shards));
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  for (const char* file : {"fixed/gates.safetensors", "fixed/loss.csv", "fixed/table.csv"}) {
    CAPTURE(file);
    const auto want = contents(shop / file);
    CHECK(want.size() > 20);
    const bool same = contents(mpi / file) == want;
    CHECK(same);
  }
}

TEST_CASE("What processes cannot do together ends all of them with a message") {
  const auto& mpi = Processes::get();
  const auto uneven =
      mpi.run(Processes::started(3, composed("uneven", "5") + Arguments{"--fixed-shards", "4"}));
  CHECK(uneven.code != 0);
  CHECK(holds(uneven.err, "multiple of the number of ranks"));
  const auto alone = mpi.run(Processes::started(
      2, {"evaluate", "--base", Workshop::get() / "base", "--tasks", "en>fr", "--test", "1"}));
  CHECK(alone.code != 0);
  CHECK(holds(alone.err, "numbers evaluate is work for one process"));
}

TEST_CASE("Ctrl-C on any process stops all with a checkpoint, which another number of processes resumes") {
  const auto& shop = Workshop::get();
  const auto& mpi = Processes::get();
  // Fixed shards: bytes can be compared, whatever training makes of last bits.
  const Arguments shards{"--fixed-shards", "6"};
  REQUIRE(shop.run(composed("whole", "400") + shards, "/nonexistent").code == 0);
  const auto command = composed("stopped", "400") + shards + Arguments{"--checkpoint", "stopped-run"};
  const auto stopped = mpi.disturbed(3, command, "stopped-run", 1, SIGINT);
  CAPTURE(stopped.err);
  CHECK(stopped.code == 130);
  CHECK(holds(stopped.err, "stopped after step "));
  CHECK(!fs::exists(mpi / "stopped/gates.safetensors"));
  const auto resumed = mpi.run(Processes::started(2, command + Arguments{"--resume"}));
  CAPTURE(resumed.err);
  REQUIRE(resumed.code == 0);
  for (const char* file : {"gates.safetensors", "loss.csv"}) {
    CAPTURE(file);
    const bool same =
        contents(mpi / (std::string("stopped/") + file)) == contents(shop / (std::string("whole/") + file));
    CHECK(same);
  }
}

TEST_CASE("A process that is killed ends the others, and the checkpoint is good") {
  const auto& mpi = Processes::get();
  const auto command = composed("killed", "400") + Arguments{"--checkpoint", "killed-run"};
  CHECK(mpi.disturbed(3, command, "killed-run", 2, SIGKILL).code != 0);
  CHECK(!fs::exists(mpi / "killed/gates.safetensors"));
  CHECK(mpi.run(Processes::started(2, command + Arguments{"--resume"})).code == 0);
  CHECK(fs::exists(mpi / "killed/gates.safetensors"));
}

TEST_CASE("A process that hangs ends all after --timeout") {
  const auto& mpi = Processes::get();
  const auto command =
      composed("hanging", "4000") + Arguments{"--checkpoint", "hanging-run", "--timeout", "1"};
  const auto ended = mpi.disturbed(2, command, "hanging-run", 1, SIGSTOP);
  CAPTURE(ended.err);
  CHECK(ended.code != 0);
  CHECK(holds(ended.err, "rank 0 of 2 has waited"));
}
