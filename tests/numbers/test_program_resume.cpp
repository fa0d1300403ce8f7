// Runs of the numbers program that are stopped, killed and resumed, or have other numbers of threads: the same bytes.

#include "numbers/program.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <sstream>
#include <string>
#include <vector>

using namespace program_test;

TEST_CASE("A run stopped by a signal and resumed ends with the same bytes as an unbroken one") {
  const auto& shop = Workshop::get();
  struct Row {
    const char* what;
    Arguments command;
    std::string result;
    int signal;
  };
  const Arguments expert{"train-expert", "--task", "en>fr",   "--base", "base", "--rank", "2",
                         "--batch",      "4",      "--steps", "700"};
  const std::vector<Row> rows{
      {"gates", compose("", "700") + Arguments{"--only-mole"}, "gates.safetensors", SIGINT},
      {"expert", expert, "adapter_model.safetensors", SIGTERM}};
  for (const auto& row : rows) {
    CAPTURE(row.what);
    const auto unbroken = std::string("unbroken-") + row.what, broken = std::string("broken-") + row.what;
    const auto checkpoint = std::string("run/") + row.what;
    REQUIRE(shop.run(with(row.command, "--out", unbroken), "/nonexistent").code == 0);

    const auto command = with(row.command, "--out", broken) + Arguments{"--checkpoint", checkpoint};
    const auto stopped = shop.interrupt(
        command, [&] { return fs::exists(shop / checkpoint); }, row.signal);
    CHECK(stopped.code == 130);
    CHECK(holds(stopped.err, "stopped after step "));
    CHECK(holds(stopped.err, "--resume"));
    CHECK(!fs::exists(fs::path(shop / broken) / row.result));
    CHECK(fs::exists(shop / checkpoint));

    CHECK(shop.run(command + Arguments{"--resume"}, "/nonexistent").code == 0);
    const auto want = contents(fs::path(shop / unbroken) / row.result);
    CHECK(want.size() > 100);
    // Not CHECK(a == b): doctest would print the bytes.
    const bool same = contents(fs::path(shop / broken) / row.result) == want;
    CHECK(same);
    if (row.what == std::string("gates")) {
      CHECK(contents(shop / "broken-gates/loss.csv") == contents(shop / "unbroken-gates/loss.csv"));
      CHECK(contents(shop / "broken-gates/table.csv") == contents(shop / "unbroken-gates/table.csv"));
    }
  }
}

TEST_CASE("Killed 20 times at any moment and resumed, a run ends with the same bytes as an unbroken one") {
  const auto& shop = Workshop::get();
  const auto command = with(compose("", "250"), "--test", "1") + Arguments{"--only-mole"};
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(shop.run(with(command, "--out", "never-killed"), "/nonexistent").code == 0);
  const auto whole =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  const auto want = contents(shop / "never-killed/gates.safetensors");
  CHECK(want.size() > 100);
  std::minstd_rand random(1);
  int kills = 0, ends = 0;
  while (kills < 20 || ends == 0) {
    Arguments resumed = with(command, "--out", "killed") + Arguments{"--checkpoint", "killed-run"};
    if (fs::exists(shop / "killed-run")) resumed.push_back("--resume");
    const pid_t child = shop.start(resumed, "/nonexistent");
    if (kills < 20) {
      ::usleep(static_cast<useconds_t>(random() % static_cast<std::uint64_t>(whole.count() * 2 / 5)));
      ::kill(child, SIGKILL);
    }
    const auto result = shop.finish(child);
    CAPTURE(result.err);
    REQUIRE((result.code == 0 || result.code == 128 + SIGKILL));
    kills += result.code == 0 ? 0 : 1;
    if (result.code != 0) continue;
    ++ends;
    const bool same = contents(shop / "killed/gates.safetensors") == want;
    CHECK(same);
    fs::remove_all(shop / "killed");
    fs::remove(shop / "killed-run");
  }
  CHECK(kills == 20);
  for (const auto& entry : fs::directory_iterator(fs::path(shop / "stdout").parent_path()))
    CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("The same seed gives the same bytes for 1, 2 and 4 threads, and another seed others") {
  const auto& shop = Workshop::get();
  const auto gates = [&](const std::string& threads, const std::string& seed) {
    const auto out = "threads-" + threads + "-" + seed;
    // By the environment, so that a BLAS has as many too.
    const auto result =
        shop.finish(shop.start(compose(out, "30") + Arguments{"--seed", seed}, nullptr, threads.c_str()));
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    return contents(shop / (out + "/gates.safetensors")) + contents(shop / (out + "/table.csv")) +
           contents(shop / (out + "/loss.csv"));
  };
  const auto one = gates("1", "3");
  for (const char* threads : {"2", "4"}) {
    CAPTURE(threads);
    const bool same = gates(threads, "3") == one;
    CHECK(same);
  }
  const bool same = gates("1", "4") == one;
  CHECK(!same);
  const auto negative = shop.run(compose("negative") + Arguments{"--seed", "-1"});
  CHECK(negative.code != 0);
  CHECK(holds(negative.err, "--seed"));
}
