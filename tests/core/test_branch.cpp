// Work beside other work: what a backend that forks is asked for, and that others need not know of it.

#include <doctest/doctest.h>
#include <stdexcept>
#include <string>

#include <mole/core/branch.hpp>

using namespace mole;

namespace {

/// Writes down what it is asked for.
struct Forks {
  static inline std::string asked;
  static inline bool pays;
  template <class F>
  static bool fork(F work) {
    if (!pays) return false;
    asked += "fork ";
    work();
    return true;
  }
  static void join() { asked += "join "; }

  static void start(bool on) {
    asked.clear();
    pays = on;
  }
};

struct InOrder {};

}  // namespace

TEST_CASE("A branch is joined once: when it is asked for, or at its end") {
  Forks::start(true);
  {
    Branch<Forks> branch;
    CHECK(branch.begin([] { Forks::asked += "work "; }));
    branch.join();
    branch.join();
    Forks::asked += "end ";
  }
  CHECK(Forks::asked == "fork work join end ");
  Forks::start(true);
  CHECK_THROWS_AS(
      [] {
        Branch<Forks> branch;
        branch.begin([] {});
        throw std::runtime_error("between");
      }(),
      std::runtime_error);
  CHECK(Forks::asked == "fork join ");
}

TEST_CASE("Where forking does not pay, or a backend cannot, nothing is begun and nothing is joined") {
  Forks::start(false);
  const auto work = [] { Forks::asked += "work "; };
  {
    Branch<Forks> branch;
    CHECK(!branch.begin(work));
    branch.join();
    Branch<InOrder> none;
    CHECK(!none.begin(work));
    none.join();
  }
  CHECK(Forks::asked == "");
}
