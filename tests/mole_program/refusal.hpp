#pragma once
// What a command refuses: one table of command lines and reasons a suite.

#include <string>

#include "examples_common/runner.hpp"

namespace program_test {

/// A command line, and a part of the message that refuses it.
struct Refusal {
  Arguments arguments;
  std::string part;
};

/// The command fails with the message, and leaves no gates in `refused`.
inline void check_refused(const Runner& shop, const Refusal& row) {
  const auto result = shop.run(row.arguments);
  CAPTURE(row.part);
  CAPTURE(result.err);
  CHECK(result.code == 1);
  CHECK(result.err.starts_with("mole: "));
  CHECK(holds(result.err, row.part));
  CHECK(!fs::exists(shop / "refused/gates.safetensors"));
}

}  // namespace program_test
