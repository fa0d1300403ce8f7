// A training command: its checkpoints, its progress bar, its stop on Ctrl-C, and its exit status.

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <signal.h>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>

#include "common/command_line.hpp"
#include "common/training.hpp"
#include "examples_common/folder.hpp"

namespace {

namespace fs = std::filesystem;
using common_test::Folder;
using mole::Index;
using Values = mole::Tensor<float, mole::Cpu>;

/// Trains x, from the same start, towards 0; before each step `before` is called.
struct Command {
  common::RunOptions run{30, 1, 0.1, ""};
  std::string fingerprint = "squares";
  std::function<void(Index step)> before = [](Index) {};
  Values x = Values::from({3}, {1, -2, 3}).set_requires_grad();

  mole::Curves operator()() {
    mole::AdamW<float, mole::Cpu> optimizer({x});
    return common::train(optimizer, common::training_options(run, "squares"),
                         common::checkpoints_of(run, fingerprint), [&](Index step) {
                           before(step);
                           const auto loss = mole::sum(mole::mul(x, x));
                           mole::backward(loss);
                           return mole::StepResult{static_cast<double>(loss.item())};
                         });
  }
};

template <class E>
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return "";
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE("A command that Ctrl-C stops goes on with --resume to the same bits") {
  const Folder folder;
  struct sigaction before {};
  sigaction(SIGINT, nullptr, &before);
  Command whole;
  whole();
  for (const Index stop : {Index{0}, Index{1}, Index{17}, Index{29}}) {
    CAPTURE(stop);
    Command broken, resumed;
    broken.run.checkpoint = resumed.run.checkpoint = folder.path / "new" / "run";
    broken.before = [&](Index step) {
      if (step == stop) std::raise(SIGINT);
    };
    const auto error = error_of<mole::Interrupted>([&] { broken(); });
    // The first step shows that there is something to go on from; a later one is not taken any more.
    CHECK(holds(error, "squares: stopped after step " + std::to_string(std::max<Index>(stop, 1)) + ";"));
    CHECK(holds(error, "--resume"));
    resumed.run.resume = true;
    CHECK(resumed().step.size() == 30);
    CHECK(resumed.x.to_host() == whole.x.to_host());
  }
  struct sigaction after {};
  sigaction(SIGINT, nullptr, &after);
  const bool as_before = after.sa_handler == before.sa_handler;
  CHECK(as_before);
}

TEST_CASE("A command without a checkpoint says what would have kept its work") {
  Command command;
  command.before = [](Index step) {
    if (step == 0) std::raise(SIGTERM);
  };
  CHECK(holds(error_of<mole::Interrupted>([&] { command(); }), "--checkpoint FILE"));
  command.run.resume = true;
  CHECK(holds(error_of<mole::ArgumentError>([&] { command(); }), "--resume needs --checkpoint"));
}

TEST_CASE("A checkpoint of other options, and one that cannot be written, are refused before any step") {
  const Folder folder;
  Command first, other;
  first.run.checkpoint = other.run.checkpoint = folder.path / "run";
  first();
  int steps = 0;
  other.before = [&](Index) { ++steps; };
  other.run.resume = true;
  other.fingerprint = "cubes";
  CHECK(holds(error_of<mole::FormatError>([&] { other(); }), "another run"));
  other.run.resume = false;
  other.run.checkpoint = folder.path;
  CHECK(holds(error_of<mole::ArgumentError>([&] { other(); }), "--checkpoint"));
  CHECK(steps == 0);
}

TEST_CASE("The exit status tells success, failure and interruption apart") {
  CHECK(common::guarded("test", [] { return 7; }) == 7);
  CHECK(common::guarded("test", []() -> int { throw mole::ArgumentError("(a test's own error)"); }) == 1);
  CHECK(common::guarded("test", []() -> int { throw std::runtime_error("(a test's own error)"); }) == 1);
  CHECK(common::guarded("test", []() -> int { throw mole::Interrupted("(a test's own stop)"); }) == 130);
}

TEST_CASE("A command line gives a run its options, and refuses what they cannot be") {
  CHECK(common::split_list("a,,b c,") == std::vector<std::string>{"a", "b c"});
  CHECK(common::split_list("").empty());
  const auto parse = [](std::vector<const char*> arguments, common::RunOptions& run,
                        common::Machine& machine) {
    CLI::App app{"a test"};
    common::add_machine_options(app, machine);
    common::add_run_options(app, run, "output");
    arguments.insert(arguments.begin(), "test");
    try {
      app.parse(static_cast<int>(arguments.size()), arguments.data());
    } catch (const CLI::ParseError& error) {
      return error.get_exit_code();
    }
    return 0;
  };
  common::RunOptions run{10, 20, 0.5, "out"};
  common::Machine machine;
  CHECK(parse({"--steps", "3", "--lr", "0.25", "--checkpoint", "file", "--resume", "--backend", "cuda"}, run,
              machine) == 0);
  CHECK(run.steps == 3);
  CHECK(run.batch == 20);
  CHECK(run.rate == 0.25);
  CHECK(run.checkpoint == "file");
  CHECK(run.resume);
  CHECK(machine.backend == "cuda");
  for (const auto& row : std::vector<std::pair<std::string, std::string>>{
           {"--steps", "0"}, {"--batch", "-1"}, {"--lr", "0"}, {"--threads", "4097"}}) {
    const auto& option = row.first;
    const auto& value = row.second;
    CAPTURE(option);
    CHECK(parse({option.c_str(), value.c_str()}, run, machine) != 0);
  }
}
