// What launchers say of a process in its environment.

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include <mole/dist/launch.hpp>
#include <testing.hpp>

using mole::dist::launch_environment;
using mole::dist::LaunchEnvironment;

namespace {

using Environment = std::map<std::string, std::string>;

LaunchEnvironment in(const Environment& environment) {
  return launch_environment([&](const std::string& name) {
    const auto found = environment.find(name);
    return found == environment.end() ? std::nullopt : std::optional(found->second);
  });
}

}  // namespace

TEST_CASE("Without a launcher a process is alone") {
  const auto alone = in({{"HOME", "/root"}});
  CHECK(alone.rank == 0);
  CHECK(alone.size == 1);
  CHECK(alone.local_rank == 0);
  CHECK(alone.launcher == "");
}

TEST_CASE("Each launcher's variables give rank, size and place on the machine") {
  struct Row {
    Environment environment;
    int local;
    const char* launcher;
  };
  const std::vector<Row> rows{
      {{{"RANK", "5"}, {"WORLD_SIZE", "8"}, {"LOCAL_RANK", "1"}}, 1, "torchrun"},
      {{{"OMPI_COMM_WORLD_RANK", "5"}, {"OMPI_COMM_WORLD_SIZE", "8"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "2"}},
       2,
       "Open MPI's mpirun"},
      {{{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}}, 5, "mpiexec"},
      {{{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}, {"MPI_LOCALRANKID", "3"}}, 3, "mpiexec"},
      {{{"SLURM_PROCID", "5"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "1"}, {"SLURM_STEP_ID", "0"}},
       1,
       "srun"}};
  for (const auto& row : rows) {
    CAPTURE(row.launcher);
    const auto found = in(row.environment);
    CHECK(found.rank == 5);
    CHECK(found.size == 8);
    CHECK(found.local_rank == row.local);
    CHECK(found.launcher == row.launcher);
  }
}

TEST_CASE("mpirun inside a job of Slurm is believed, and a job script by itself is one process") {
  Environment job{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "0"}};
  CHECK(in(job).size == 1);
  job.insert(
      {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}});
  job["SLURM_STEP_ID"] = "0";
  CHECK(in(job).size == 2);
  CHECK(in(job).rank == 1);
}

TEST_CASE("Half a set of variables is refused, and what lacks is named") {
  const auto refused = [](const Environment& environment, std::initializer_list<const char*> parts) {
    return mole::testing::lacks<mole::ArgumentError>([&] { in(environment); }, parts);
  };
  CHECK(refused({{"RANK", "0"}}, {"RANK", "not WORLD_SIZE, LOCAL_RANK", "torchrun"}) == "");
  CHECK(refused({{"RANK", "0"}, {"WORLD_SIZE", "2"}}, {"not LOCAL_RANK"}) == "");
  CHECK(refused({{"OMPI_COMM_WORLD_SIZE", "2"}}, {"OMPI_COMM_WORLD_RANK", "mpirun"}) == "");
  CHECK(refused({{"PMI_SIZE", "2"}}, {"PMI_RANK"}) == "");
  CHECK(refused({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "1"}}, {"SLURM_NTASKS", "SLURM_LOCALID"}) == "");
}

TEST_CASE("Values that are no rank of a group are refused by name") {
  for (const char* bad : {"", "two", "-1", "1.5", "99999999999", "1 "}) {
    CAPTURE(bad);
    CHECK(mole::testing::lacks<mole::ArgumentError>(
              [&] {
                in({{"PMI_RANK", "0"}, {"PMI_SIZE", bad}});
              },
              {"PMI_SIZE", "whole number"}) == "");
  }
  CHECK(mole::testing::lacks<mole::ArgumentError>(
            [] {
              in({{"PMI_RANK", "2"}, {"PMI_SIZE", "2"}});
            },
            {"PMI_RANK 2", "PMI_SIZE 2"}) == "");
}
