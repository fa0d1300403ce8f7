// The training loop: its steps, what it keeps when a loss stops being a number or someone stops it, and what
// it tells.

#include <doctest/doctest.h>

#include <cmath>
#include <csignal>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <testing.hpp>

#include <mole/autodiff/backward.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/optim/sgd.hpp>
#include <mole/train/loop.hpp>

namespace {

using mole::Index;
using mole::testing::Device;
using mole::testing::lacks;
template <class T>
using Values = mole::Tensor<T, Device>;

template <class T>
Values<T> start() {
  auto x = Values<T>::from({3}, {T(1), T(-2), T(3)});
  x.set_requires_grad();
  return x;
}

/// The sum of squares of x, multiplied at step `bad` by `factor`.
template <class T>
mole::StepFunction squares(const Values<T>& x, Index bad = -1, float factor = 1) {
  return [=](Index step) {
    const auto loss = mole::scale(mole::sum(mole::mul(x, x)), mole::Compute<T>(step == bad ? factor : 1));
    mole::backward(loss);
    return mole::StepResult{static_cast<double>(loss.item()), {{"step", static_cast<double>(step)}}};
  };
}

/// A place for one state, in memory.
struct Memory {
  std::optional<mole::RunState> state;
  int saves = 0;

  mole::Checkpoints checkpoints(bool resume = false) {
    mole::Checkpoints made;
    made.name = "the drawer";
    made.save = [this](const mole::RunState& now) { state = now, ++saves; };
    if (resume) made.load = [this](mole::RunState& now) { now = state.value(); };
    return made;
  }
};

mole::TrainingOptions options() {
  mole::TrainingOptions made;
  made.label = "squares";
  made.steps = 40;
  made.schedule = {mole::ScheduleKind::cosine, 0.1, 20, 40, 0.005};
  made.checkpoint_every = 10;
  return made;
}

template <class O, class T>
void check_by_hand(double clip) {
  CAPTURE(clip);
  auto run = options();
  run.clip = clip;
  const auto x = start<T>(), y = start<T>();
  O trained({x}), stepped({y});
  const auto curves = train(trained, run, squares(x));
  const auto loss = squares(y);
  for (Index step = 0; step < run.steps; ++step) {
    stepped.zero_grad();
    const auto [value, measures] = loss(step);
    CHECK(curves.step[static_cast<std::size_t>(step)] == static_cast<double>(step + 1));
    CHECK(curves.series[0].second[static_cast<std::size_t>(step)] == value);
    CHECK(curves.series[1].second[static_cast<std::size_t>(step)] == static_cast<double>(step));
    if (clip > 0) mole::clip_grad_norm(stepped.parameters(), clip);
    stepped.step(run.schedule.rate(step));
  }
  CHECK(mole::testing::doubles(x) == mole::testing::doubles(y));
  CHECK(mole::testing::doubles(x) != mole::testing::doubles(start<T>()));
  CHECK(curves.series.size() == 2);
  CHECK(curves.series[0].first == "loss");
}

}  // namespace

TEST_CASE_TEMPLATE("A run takes the steps that a loop by hand takes, with any optimiser and scalar", T, float,
                   double, mole::bf16, mole::half) {
  for (const double clip : {0.0, 1.0, 1e6}) {
    check_by_hand<mole::AdamW<T, Device>, T>(clip);
    check_by_hand<mole::Sgd<T, Device>, T>(clip);
  }
}

TEST_CASE("A checkpoint keeps what else a run needs, and a resumed run gets it back before its first step") {
  // A run with a memory of its own: each step adds x to it, and its loss is what x and the memory have in common.
  const auto run = [](Memory& place, Index steps, Index stop_at, bool resume) {
    const auto x = start<double>();
    mole::Sgd<double, Device> plain({x});
    const auto kept = Values<double>::zeros({3});
    auto now = Values<double>::full({3}, 1.0);
    Index done = 0;
    mole::KeepingMore optimizer(plain, {kept});
    mole::TrainingHooks hooks;
    hooks.stop = [&] { return done == stop_at; };
    std::vector<double> losses;
    const auto step = [&](Index number) {
      if (number != done) now = kept.clone();
      kept.assign(now);
      const auto loss = mole::sum(mole::mul(mole::mul(x, x), now));
      mole::backward(loss);
      now = mole::add(now, mole::mul(x.detach(), x.detach()));
      done = number + 1;
      losses.push_back(loss.item());
      return mole::StepResult{loss.item()};
    };
    mole::TrainingOptions options;
    options.steps = steps;
    options.schedule = {mole::ScheduleKind::constant, 0.01};
    try {
      mole::train(optimizer, options, step, place.checkpoints(resume), hooks);
    } catch (const mole::Interrupted&) {
    }
    return std::pair(losses, x.to_host());
  };
  Memory unbroken, broken;
  const auto whole = run(unbroken, 8, -1, false);
  CHECK(run(broken, 8, 5, false).first.size() == 5);
  const auto rest = run(broken, 8, -1, true);
  CHECK(rest.second == whole.second);
  // The step that was made when the run was stopped is made again.
  CHECK(rest.first == std::vector<double>(whole.first.begin() + 4, whole.first.end()));
}

TEST_CASE(
    "A loss that is NaN or infinite stops training, names the step and keeps the last good checkpoint") {
  const auto unbroken = start<float>();
  mole::AdamW<float, Device> whole({unbroken});
  train(whole, options(), squares(unbroken));
  for (const float factor :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Memory memory;
    const auto x = start<float>(), y = start<float>();
    mole::AdamW<float, Device> broken({x}), resumed({y});
    CHECK(lacks<mole::NumericError>(
              [&] { train(broken, options(), squares(x, 25, factor), memory.checkpoints()); },
              {std::isnan(factor) ? "squares: the loss is NaN at step 26" : "the loss is infinite at step 26",
               "lower the learning rate", "the drawer"}) == "");
    const auto curves = train(resumed, options(), squares(y), memory.checkpoints(true));
    CHECK(y.to_host() == unbroken.to_host());
    CHECK(curves.step.size() == 40);
  }
}

TEST_CASE("A first loss that is NaN promises no checkpoint") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Memory memory;
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  CHECK(lacks<mole::NumericError>(
            [&] { train(optimizer, options(), squares(x, 3, nan), memory.checkpoints()); },
            {"at step 4", "no checkpoint yet"}) == "");
  CHECK_FALSE(memory.state);
  CHECK(lacks<mole::NumericError>([&] { train(optimizer, options(), squares(x, 3, nan)); },
                                  {"at step 4", "Nothing was saved"}) == "");
}

TEST_CASE(
    "A loss that is NaN before anything was learned points at weights and data, not at the learning rate") {
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  const auto broken = [&] {
    train(optimizer, options(), squares(x, 0, std::numeric_limits<float>::quiet_NaN()));
  };
  CHECK(lacks<mole::NumericError>(broken, {"at step 1", "look at the weights"}) == "");
  CHECK(lacks<mole::NumericError>(broken, {"lower the learning rate"}) != "");
}

TEST_CASE("An update that makes weights infinite is never saved") {
  Memory memory;
  auto run = options();
  run.schedule = {};
  run.schedule.peak = std::numeric_limits<double>::max();
  run.steps = run.checkpoint_every = 1;
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  CHECK_THROWS_AS(train(optimizer, run, squares(x), memory.checkpoints()), mole::NumericError);
  CHECK_FALSE(memory.state);
}

TEST_CASE("Gradients that are not finite stop training, with the advice of the program") {
  auto run = options();
  run.advice.to_calm = "turn the knob";
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  const auto step = [&](Index) {
    x.set_grad(Values<float>::full({3}, std::numeric_limits<float>::infinity()));
    return mole::StepResult{1.0};
  };
  CHECK(lacks<mole::NumericError>([&] { train(optimizer, run, step); },
                                  {"gradients", "at step 1", "turn the knob"}) == "");
}

TEST_CASE_TEMPLATE("A run that is stopped at any step is resumed to the same bits and curves", T, float,
                   double, mole::bf16) {
  const auto unbroken = start<T>();
  mole::AdamW<T, Device> whole({unbroken});
  const auto want = train(whole, options(), squares(unbroken));
  for (const Index stop : {Index{1}, Index{2}, Index{10}, Index{17}, Index{39}, Index{40}}) {
    CAPTURE(stop);
    Memory memory;
    const auto x = start<T>(), y = start<T>();
    mole::AdamW<T, Device> broken({x}), resumed({y});
    Index done = 0;
    mole::TrainingHooks hooks;
    hooks.progress = [&](Index now, double) { done = now; };
    hooks.stop = [&] { return done >= stop; };
    const auto text = "squares: stopped after step " + std::to_string(stop);
    CHECK(lacks<mole::Interrupted>([&] { train(broken, options(), squares(x), memory.checkpoints(), hooks); },
                                   {text.c_str(), "resume it"}) == "");
    CHECK(static_cast<Index>(memory.state.value().curves.step.size()) == stop);
    const auto curves = train(resumed, options(), squares(y), memory.checkpoints(true));
    CHECK(mole::testing::doubles(y) == mole::testing::doubles(unbroken));
    CHECK(curves.step == want.step);
    CHECK(curves.series == want.series);
    CHECK(resumed.steps() == whole.steps());
  }
}

TEST_CASE("A run that is stopped without checkpoints says so") {
  auto run = options();
  run.advice.to_save = "--keep keeps it";
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  mole::TrainingHooks hooks;
  hooks.stop = [] { return true; };
  CHECK(lacks<mole::Interrupted>([&] { train(optimizer, run, squares(x), {}, hooks); },
                                 {"stopped after step 1", "nothing was saved", "--keep keeps it"}) == "");
}

TEST_CASE("Checkpoints come every so many steps and at the end, each once") {
  Memory memory;
  auto run = options();
  run.steps = 25;
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  train(optimizer, run, squares(x), memory.checkpoints());
  CHECK(memory.saves == 3);
  CHECK(memory.state.value().curves.step.size() == 25);
  // Nothing is left to do, and nothing is written again.
  train(optimizer, run, squares(x), memory.checkpoints(true));
  CHECK(memory.saves == 3);
}

TEST_CASE("Progress is told once before the first step, and after each with its loss") {
  Memory memory;
  auto run = options();
  run.steps = 3;
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  std::vector<Index> done;
  std::vector<double> losses;
  mole::TrainingHooks hooks;
  hooks.progress = [&](Index now, double loss) { done.push_back(now), losses.push_back(loss); };
  const auto curves = train(optimizer, run, squares(x), memory.checkpoints(), hooks);
  CHECK(done == std::vector<Index>{0, 1, 2, 3});
  REQUIRE(losses.size() == 4);
  CHECK(std::isnan(losses.front()));
  CHECK(std::vector<double>(losses.begin() + 1, losses.end()) == curves.series[0].second);
  done.clear();
  run.steps = 5;
  train(optimizer, run, squares(x), memory.checkpoints(true), hooks);
  CHECK(done == std::vector<Index>{3, 4, 5});
}

TEST_CASE("What cannot be saved is found out before the first step, and after a checkpoint was read") {
  Memory memory;
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  auto places = memory.checkpoints();
  places.prepare = [] { throw mole::ArgumentError("the drawer is locked"); };
  int steps = 0;
  const auto step = [&](Index) { return ++steps, mole::StepResult{1.0}; };
  CHECK_THROWS_WITH_AS(train(optimizer, options(), step, places), "the drawer is locked",
                       mole::ArgumentError);
  places.load = [](mole::RunState&) { throw mole::FormatError("the drawer is empty"); };
  CHECK_THROWS_WITH_AS(train(optimizer, options(), step, places), "the drawer is empty", mole::FormatError);
  CHECK(steps == 0);
}

TEST_CASE("A checkpoint of a longer run, or of one that measured something else, is refused") {
  Memory memory;
  auto run = options();
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  train(optimizer, run, squares(x), memory.checkpoints());
  run.steps = 39;
  CHECK(lacks<mole::ArgumentError>([&] { train(optimizer, run, squares(x), memory.checkpoints(true)); },
                                   {"the drawer", "40", "39"}) == "");
  run.steps = 41;
  const auto other = [&](Index step) {
    auto result = squares(x)(step);
    result.measures.front().first = "stride";
    return result;
  };
  CHECK(lacks<mole::ArgumentError>([&] { train(optimizer, run, other, memory.checkpoints(true)); },
                                   {"step 41", "stride", "step"}) == "");
  run.checkpoint_every = 0;
  CHECK_THROWS_AS(train(optimizer, run, squares(x)), mole::ArgumentError);
}

TEST_CASE("Curves name what a later step measures too much, too little or in another order") {
  mole::Curves curves;
  curves.add(0, {{"loss", 1}, {"entropy", 2}});
  CHECK_THROWS_AS(curves.add(1, {{"loss", 1}}), mole::ArgumentError);
  CHECK_THROWS_AS(curves.add(1, {{"loss", 1}, {"entropy", 2}, {"share", 3}}), mole::ArgumentError);
  CHECK_THROWS_AS(curves.add(1, {{"entropy", 2}, {"loss", 1}}), mole::ArgumentError);
  CHECK(curves.step == std::vector<double>{1});
  curves.add(1, {{"loss", 3}, {"entropy", 4}});
  CHECK(curves.step == std::vector<double>{1, 2});
  CHECK(curves.series[1].second == std::vector<double>{2, 4});
}

TEST_CASE("A state of other tensors is refused, and nothing is changed") {
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  const auto good = run_state(optimizer, {});
  CHECK(good.tensors.size() == 3);
  CHECK(good.tensors[2].name == "state.1");
  const auto refused = [&](auto change) {
    auto state = good;
    for (auto& value : std::get<std::vector<float>>(state.tensors.front().values)) value = 7;
    change(state);
    CHECK_THROWS_AS(restore(optimizer, state), mole::Error);
    CHECK(x.to_host() == start<float>().to_host());
    CHECK(optimizer.steps() == std::vector<Index>{0});
  };
  refused([](auto& state) { state.tensors.pop_back(); });
  refused([](auto& state) { state.tensors.push_back(state.tensors.back()); });
  refused([](auto& state) { state.tensors.back().shape = mole::Shape{1, 3}; });
  refused([](auto& state) { state.tensors.back().values = std::vector<float>(2); });
  refused([](auto& state) { state.tensors.back().values = std::vector<double>(3); });
  refused([](auto& state) { state.steps = {1, 1}; });
  refused([](auto& state) { state.steps = {-1}; });
}

TEST_CASE("Training leaves the process's signals alone") {
  struct sigaction before {};
  sigaction(SIGINT, nullptr, &before);
  const auto x = start<float>();
  mole::AdamW<float, Device> optimizer({x});
  train(optimizer, options(), [&](Index step) {
    struct sigaction now {};
    sigaction(SIGINT, nullptr, &now);
    const bool same = now.sa_handler == before.sa_handler;
    CHECK(same);
    return squares(x)(step);
  });
}
