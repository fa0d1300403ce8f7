// Steps that are captured by the shapes of their batch, on a processor that repeats them by calling them
// again.

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/core/error.hpp>
#include <mole/core/graph.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/train/replayed.hpp>

namespace {

/// The CPU, with graphs.
struct Recorder : mole::Cpu {
  static inline int captures = 0;
  static inline bool full = false;
};

struct RecordedStep {
  explicit RecordedStep(std::function<void()> made) : step(std::move(made)) {
    if (Recorder::full) throw mole::DeviceError("out of memory");
    step();
    ++Recorder::captures;
  }
  void replay() const { step(); }
  std::function<void()> step;
};

}  // namespace

template <>
struct mole::GraphOf<Recorder> {
  using type = RecordedStep;
};

namespace {

using mole::Index;
using Floats = mole::Tensor<float, Recorder>;
using Doubles = mole::Tensor<double, Recorder>;
using Indices = mole::Tensor<Index, Recorder>;

/// A sequence with `mask` in every place.
struct Sequences {
  Indices ids;
  Floats mask;
  Indices labels;

  template <class F>
  void each_tensor(F f) {
    f(ids), f(mask), f(labels);
  }
};

/// Two sequences, so that the loss below is x times the sum of their masks.
Sequences sequences(Index length, float mask) {
  return {Indices::from({2, length}, std::vector<Index>(static_cast<std::size_t>(2 * length), 1)),
          Floats::full({2, length}, mask), Indices::from({2, 3}, std::vector<Index>(6, 1))};
}

struct Fixture {
  Floats x = Floats::from({1}, {3}).set_requires_grad();
  std::vector<std::string> notices;
  mole::Replayed<float, Recorder, Sequences, Floats> loss;

  explicit Fixture(std::size_t graphs = 24)
      : loss({x},
             [this](const Sequences& b) {
               const auto value = mole::sum(mole::mul(x, b.mask));
               mole::backward(value);
               return value.detach();
             },
             {graphs, [this](const std::string& why) { notices.push_back(why); }}) {
    Recorder::captures = 0;
    Recorder::full = false;
  }
  void check(Index length, float mask) {
    CAPTURE(length);
    CAPTURE(mask);
    const auto sum = 2 * static_cast<float>(length) * mask;
    CHECK(loss(sequences(length, mask)).item() == 3 * sum);
    CHECK(x.grad().item() == sum);
  }
};

/// A batch of another kind: numbers of two precisions, indices into a table, parts of any number, one of
/// which may be missing, and a member that is no tensor.
struct Pictures {
  std::vector<Doubles> scales;
  Floats latents;
  Indices steps;
  Floats prompt;
  std::string title;

  template <class F>
  void each_tensor(F f) {
    for (auto& scale : scales) f(scale);
    f(latents), f(steps), f(prompt);
  }
};

/// The least there can be, on a backend without graphs.
struct Factor {
  mole::Tensor<float, mole::Cpu> factor;

  template <class F>
  void each_tensor(F f) {
    f(factor);
  }
};

}  // namespace

TEST_CASE("A shape's step is captured when it comes again, and each replay reads the batch at hand") {
  Fixture f;
  f.check(4, 1);
  CHECK(Recorder::captures == 0);
  f.check(4, 2);
  CHECK(Recorder::captures == 1);
  f.check(5, 1);
  f.check(4, 5);
  f.check(5, 7);
  CHECK(Recorder::captures == 2);
  f.check(5, 1);
  f.check(4, 1);
  CHECK(Recorder::captures == 2);
  CHECK(f.notices.empty());
}

TEST_CASE("Where there is no memory for graphs, steps run as they are, and the program is told once") {
  Fixture f;
  for (const float mask : {1.0F, 2.0F}) f.check(4, mask);
  CHECK(Recorder::captures == 1);
  Recorder::full = true;
  for (const float mask : {1.0F, 2.0F}) f.check(5, mask);
  Recorder::full = false;
  for (const float mask : {1.0F, 2.0F, 3.0F}) f.check(4, mask);
  for (const float mask : {1.0F, 2.0F, 3.0F}) f.check(5, mask);
  CHECK(Recorder::captures == 1);
  CHECK(f.notices == std::vector<std::string>{"out of memory"});
}

TEST_CASE("No more shapes are captured than asked for") {
  Fixture f(1);
  for (const Index length : {4, 5, 6})
    for (const float mask : {1.0F, 2.0F, 3.0F}) f.check(length, mask);
  CHECK(Recorder::captures == 1);
  f.check(4, 9);
  CHECK(Recorder::captures == 1);
}

TEST_CASE("Any batch can be captured and overwritten by the next, whatever tensors it is made of") {
  Recorder::captures = 0;
  Recorder::full = false;
  auto table = Floats::from({3, 1}, {1, 10, 100}).set_requires_grad();
  mole::Replayed<float, Recorder, Pictures, Floats> loss({table}, [&](const Pictures& b) {
    auto value = mole::mul(mole::sum(mole::embedding(table, b.steps)), mole::sum(b.latents));
    for (const auto& scale : b.scales) value = mole::scale(value, static_cast<float>(scale.item()));
    if (b.prompt.defined()) value = mole::add(value, mole::sum(b.prompt));
    mole::backward(value);
    return value.detach();
  });
  const auto check = [&](const std::vector<double>& scales, const std::vector<float>& latents, Index step,
                         float prompt) {
    Pictures batch;
    for (const double scale : scales) batch.scales.push_back(Doubles::scalar(scale));
    batch.latents = Floats::from({static_cast<Index>(latents.size())}, latents);
    batch.steps = Indices::from({1}, {step});
    if (prompt != 0) batch.prompt = Floats::scalar(prompt);
    float factor = 0;
    for (const float latent : latents) factor += latent;
    for (const double scale : scales) factor *= static_cast<float>(scale);
    const auto row = std::vector<float>{1, 10, 100}[static_cast<std::size_t>(step)];
    CHECK(loss(batch).item() == row * factor + prompt);
    std::vector<float> gradient(3, 0);
    gradient[static_cast<std::size_t>(step)] = factor;
    CHECK(table.grad().to_host() == gradient);
  };
  check({2}, {1, 2}, 0, 5);
  check({2}, {1, 2}, 1, 5);
  CHECK(Recorder::captures == 1);
  check({3}, {4, 2}, 2, 7);
  check({-1}, {0, 2}, 1, 1);
  CHECK(Recorder::captures == 1);
  // Another number of tensors, another extent, and a tensor that is missing are shapes of their own.
  for (const float latent : {1.0F, 2.0F, 3.0F}) {
    check({2, 4}, {latent, 2}, 0, 5);
    check({2}, {latent, 2, 8}, 1, 5);
    check({2}, {latent, 2}, 2, 0);
  }
  CHECK(Recorder::captures == 4);
  check({6}, {1, 1}, 2, 3);
  CHECK(Recorder::captures == 4);
}

TEST_CASE("An index outside the table is refused in a replay as in the first step") {
  Recorder::captures = 0;
  Recorder::full = false;
  auto table = Floats::from({3, 1}, {1, 10, 100}).set_requires_grad();
  mole::Replayed<float, Recorder, Pictures, Floats> loss({table}, [&](const Pictures& b) {
    const auto value = mole::sum(mole::embedding(table, b.steps));
    mole::backward(value);
    return value.detach();
  });
  const auto at = [&](Index step) {
    Pictures batch;
    batch.latents = Floats::scalar(1);
    batch.steps = Indices::from({1}, {step});
    return loss(batch).item();
  };
  CHECK(at(0) == 1);
  // The capture itself meets it, and then a replay.
  CHECK_THROWS_AS(at(3), mole::ShapeError);
  CHECK(at(1) == 10);
  CHECK_THROWS_AS(at(3), mole::ShapeError);
  CHECK(at(2) == 100);
  CHECK(Recorder::captures == 1);
}

TEST_CASE("A backend without graphs takes the steps as they are") {
  static_assert(!mole::has_graphs<mole::Cpu>);
  auto x = mole::Tensor<float, mole::Cpu>::from({1}, {3}).set_requires_grad();
  {
    mole::Replayed<float, mole::Cpu, Factor, float> loss({x}, [&](const Factor& b) {
      const auto value = mole::sum(mole::mul(x, b.factor));
      mole::backward(value);
      return value.item();
    });
    for (const float factor : {2.0F, 5.0F, 7.0F}) {
      CHECK(loss({mole::Tensor<float, mole::Cpu>::full({1}, factor)}) == 3 * factor);
      CHECK(x.grad().item() == factor);
    }
  }
  CHECK_FALSE(x.grad().defined());
}
