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
