// The training loop of numbers: what it keeps when a loss stops being a number or someone stops it.

#include <doctest/doctest.h>

#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <string>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

#include "numbers/folder.hpp"
#include "numbers/training.hpp"

namespace {

namespace fs = std::filesystem;
using numbers_test::Folder;
using namespace numbers;
using B = mole::Cpu;
using Values = numbers::Values<B>;

Values start() {
  auto x = Values::from({3}, {1, -2, 3});
  x.set_requires_grad(true);
  return x;
}

/// The sum of squares of x, multiplied at step `bad` by `factor`.
StepLoss squares(const Values& x, Index bad = -1, Scalar factor = 1) {
  return [=](Index step) {
    const auto loss = mole::scale(mole::sum(mole::mul(x, x)), step == bad ? factor : Scalar(1));
    mole::backward(loss);
    return std::pair{static_cast<double>(loss.item()), Measures{{"step", static_cast<double>(step)}}};
  };
}

TrainingOptions options(const fs::path& checkpoint) {
  TrainingOptions made;
  made.label = "squares";
  made.steps = 40;
  made.rate = 0.1;
  made.checkpoint = checkpoint;
  made.checkpoint_every = 10;
  made.fingerprint = "squares 40";
  return made;
}

}  // namespace

TEST_CASE(
    "a loss that is NaN or infinite stops training, names the step and keeps the last good checkpoint") {
  const Folder folder;
  const auto unbroken = start();
  train<B>({unbroken}, options({}), squares(unbroken));
  for (const Scalar factor :
       {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity()}) {
    auto run = options(folder.path / "run");
    fs::remove(run.checkpoint);
    const auto x = start();
    std::string error;
    try {
      train<B>({x}, run, squares(x, 25, factor));
    } catch (const mole::NumericError& caught) {
      error = caught.what();
    }
    CHECK(error.find(std::isnan(factor) ? "NaN at step 26" : "infinite at step 26") != error.npos);
    CHECK(error.find(run.checkpoint.string()) != error.npos);

    const auto y = start();
    run.resume = true;
    const auto curves = train<B>({y}, run, squares(y));
    CHECK(y.to_host() == unbroken.to_host());
    CHECK(curves.step.size() == 40);
  }
}

TEST_CASE("a first loss that is NaN promises no checkpoint") {
  const Folder folder;
  const auto run = options(folder.path / "run");
  const auto x = start();
  std::string error;
  try {
    train<B>({x}, run, squares(x, 3, std::numeric_limits<Scalar>::quiet_NaN()));
  } catch (const mole::NumericError& caught) {
    error = caught.what();
  }
  CHECK(error.find("no checkpoint yet") != error.npos);
  CHECK(!fs::exists(run.checkpoint));
}

TEST_CASE("an update that makes weights infinite is never saved") {
  const Folder folder;
  auto run = options(folder.path / "run");
  run.rate = std::numeric_limits<double>::max();
  run.steps = run.checkpoint_every = 1;
  const auto x = start();
  CHECK_THROWS_AS(train<B>({x}, run, squares(x)), mole::NumericError);
  CHECK(!fs::exists(run.checkpoint));
}

TEST_CASE("a run stopped by Ctrl-C at any step is resumed to the same bits and curves") {
  const Folder folder;
  const auto unbroken = start();
  const auto want = train<B>({unbroken}, options({}), squares(unbroken));
  for (const Index stop : {Index{0}, Index{1}, Index{10}, Index{17}, Index{39}}) {
    CAPTURE(stop);
    auto run = options(folder.path / "run");
    const auto x = start(), y = start();
    const auto loss = squares(x);
    CHECK_THROWS_AS(train<B>({x}, run,
                             [&](Index step) {
                               if (step == stop) std::raise(SIGINT);
                               return loss(step);
                             }),
                    Interrupted);
    run.resume = true;
    const auto curves = train<B>({y}, run, squares(y));
    CHECK(y.to_host() == unbroken.to_host());
    CHECK(curves.step == want.step);
    CHECK(curves.series == want.series);
  }
}
