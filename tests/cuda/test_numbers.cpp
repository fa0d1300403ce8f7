// Training on the GPU loses what training on the processor does.

#include "numbers/program.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mole/io/safetensors.hpp>

using namespace program_test;

namespace {

/// The losses of a run, from its checkpoint: the second row of its curves, behind the steps.
std::vector<double> losses(const std::string& checkpoint) {
  const mole::SafetensorsFile file(checkpoint);
  const auto points = static_cast<std::ptrdiff_t>(file.at("curves").shape[1]);
  const auto curves = file.read<double>("curves");
  return {curves.begin() + points, curves.begin() + 2 * points};
}

}  // namespace

TEST_CASE("The first 50 losses of base, expert and gates are those of the processor to 1e-3") {
  const auto& shop = Workshop::get();
  struct Row {
    std::string what;
    Arguments command;
  };
  const std::vector<Row> rows{{"base", {"train-base", "--batch", "16"}},
                              {"expert", {"train-expert", "--task", "en>fr", "--batch", "16"}},
                              {"gates", {"compose", "--only-mole", "--test", "1"}}};
  for (const auto& row : rows) {
    CAPTURE(row.what);
    const auto run = [&](const std::string& backend) {
      const auto name = row.what + "-" + backend;
      const auto result = shop.run(row.command + Arguments{"--steps", "50", "--out", name, "--checkpoint",
                                                           name + ".run", "--backend", backend},
                                   "/nonexistent");
      CAPTURE(result.err);
      REQUIRE(result.code == 0);
      return losses(shop / (name + ".run"));
    };
    const auto cpu = run("cpu"), cuda = run("cuda");
    REQUIRE(cpu.size() == 50);
    REQUIRE(cuda.size() == 50);
    double worst = 0;
    for (std::size_t i = 0; i < cpu.size(); ++i)
      worst = std::max(worst, std::abs(cuda[i] - cpu[i]) / std::max(1.0, std::abs(cpu[i])));
    MESSAGE(row.what << ": " << worst << " apart at most, loss " << cpu.front() << " to " << cpu.back());
    CHECK(worst <= 1e-3);
  }
}

TEST_CASE("With fixed shards two GPUs write the bytes of one, and the first rank alone prints") {
  const auto& shop = Workshop::get();
  const auto run = [&](const std::string& out, const Arguments& more) {
    return shop.run(
        compose(out, "15") + Arguments{"--only-mole", "--fixed-shards", "2", "--backend", "cuda"} + more,
        "/nonexistent");
  };
  const auto two = run("two-gpus", {"--gpus", "2"});
  if (two.err.find("this process may use 1;") != std::string::npos) {
    MESSAGE("NOT RUN: it takes two GPUs");
    return;
  }
  CAPTURE(two.err);
  REQUIRE(two.code == 0);
  REQUIRE(run("one-gpu", {}).code == 0);
  for (const char* file : {"gates.safetensors", "loss.csv", "table.csv"}) {
    CAPTURE(file);
    const auto want = contents(shop / (std::string("one-gpu/") + file));
    CHECK(want.size() > 20);
    const bool same = contents(shop / (std::string("two-gpus/") + file)) == want;
    CHECK(same);
  }
  const std::string title = "Exact match in per cent";
  const auto at = two.out.find(title);
  REQUIRE(at != std::string::npos);
  CHECK(two.out.find(title, at + 1) == std::string::npos);
}
