#pragma once
// Running the built `numbers` program in a folder of its own, with a tiny base and two experts.

#include <string>
#include <vector>

#include "examples_common/runner.hpp"

namespace program_test {

/// A folder with a base, two experts, and all that the runs in it write. Made once for all tests.
class Workshop : public Runner {
 public:
  static Workshop& get() {
    static Workshop shop;
    return shop;
  }

 private:
  Workshop() : Runner(MOLE_NUMBERS_PROGRAM, "mole-program-test") {
    const Arguments tiny{"--steps", "3", "--batch", "4"};
    const Arguments shape{"--layers",       "1",  "--heads",   "2", "--head-width", "8",
                          "--feed-forward", "16", "--numbers", "20"};
    REQUIRE(run(Arguments{"train-base", "--width", "16", "--out", "base"} + shape + tiny).code == 0);
    REQUIRE(run(Arguments{"train-base", "--width", "24", "--out", "wide"} + shape + tiny).code == 0);
    for (const char* task : {"en>fr", "fr>en"})
      REQUIRE(run(Arguments{"train-expert", "--task", task, "--base", "base", "--rank", "2"} + tiny).code ==
              0);
    REQUIRE(
        run(Arguments{"train-expert", "--task", "en>fr", "--base", "wide", "--out", "alien", "--rank", "2"} +
            tiny)
            .code == 0);
  }
};

/// `compose` on the workshop's base and experts.
inline Arguments compose(const std::string& out, const std::string& steps = "6") {
  return {"compose", "--base", "base",    "--experts", "en-fr,fr-en", "--tasks", "en>fr,fr>en", "--test", "3",
          "--steps", steps,    "--batch", "4",         "--examples",  "5",       "--out",       out};
}

}  // namespace program_test
