// A program as one process of several.

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include <mole/core/error.hpp>

#include "common/ranks.hpp"

namespace {

/// Environment variables as mpiexec sets them, while it lives.
struct Started {
  Started(const char* rank, const char* size) {
    ::setenv("PMI_RANK", rank, 1);
    ::setenv("PMI_SIZE", size, 1);
  }
  ~Started() {
    ::unsetenv("PMI_RANK");
    ::unsetenv("PMI_SIZE");
  }
};

}  // namespace

TEST_CASE("A process by itself is a group of one and leaves with its status") {
  CHECK(common::join_ranks(1).size() == 1);
  CHECK(common::leave_ranks(3) == 3);
  common::expect_one_process("bake");
  const Started one("0", "1");
  CHECK(common::join_ranks(1).size() == 1);
  common::expect_one_process("bake");
}

TEST_CASE("Work for one process is refused where a launcher started several") {
  const Started two("1", "2");
  std::string error;
  try {
    common::expect_one_process("bake");
  } catch (const mole::ArgumentError& refused) {
    error = refused.what();
  }
  CHECK(error == "bake is work for one process, and mpiexec started 2; start it without mpiexec");
}

namespace {

/// What was refused.
std::string refusal(const common::RankOptions& options, const std::string& backend) {
  try {
    options.run(backend, [](const common::RankOptions&) {});
  } catch (const mole::ArgumentError& refused) {
    return refused.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("One rank runs in the thread that asks for it, with the options it was given") {
  common::RankOptions options;
  options.fixed_shards = 3;
  int calls = 0;
  options.run("cpu", [&](const common::RankOptions& own) {
    ++calls;
    CHECK(own.group.size() == 1);
    CHECK(own.fixed_shards == 3);
  });
  CHECK(calls == 1);
}

TEST_CASE("Several GPUs are for the backend that has some, and for one process") {
  common::RankOptions options;
  options.gpus = 2;
  CHECK(refusal(options, "cpu") == "--gpus 2 is for --backend cuda");
  const Started two("1", "2");
  CHECK(refusal(options, "cuda") ==
        "--gpus 2 starts threads of one process, and mpiexec started 2 processes; leave out one of the two");
}
