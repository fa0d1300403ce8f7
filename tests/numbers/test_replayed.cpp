// Steps that are captured by the shape of their batch, on a processor that repeats them by calling them
// again.

#include <doctest/doctest.h>

#include <functional>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/core/error.hpp>
#include <mole/core/graph.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>

#include "numbers/replayed.hpp"

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
using numbers::Scalar;
using Values = numbers::Values<Recorder>;
using Batch = mole::T5Batch<Scalar, Recorder>;

/// Two sequences with `mask` in every place, so that the loss below is x times their sum.
Batch batch(Index length, Scalar mask) {
  return {mole::Tensor<Index, Recorder>::from({2, length}, std::vector<Index>(2 * length, 1)),
          Values::full({2, length}, mask),
          mole::Tensor<Index, Recorder>::from({2, 3}, std::vector<Index>(6, 1))};
}

struct Fixture {
  Values x = Values::from({1}, {3}).set_requires_grad();
  numbers::Replayed<Recorder, Values> loss{{x}, [this](const Batch& b) {
                                             const auto value = mole::sum(mole::mul(x, b.input_mask));
                                             mole::backward(value);
                                             return value.detach();
                                           }};

  Fixture() {
    Recorder::captures = 0;
    Recorder::full = false;
  }
  void check(Index length, Scalar mask) {
    CAPTURE(length);
    CAPTURE(mask);
    const auto sum = 2 * static_cast<Scalar>(length) * mask;
    CHECK(loss(batch(length, mask)).item() == 3 * sum);
    CHECK(x.grad().item() == sum);
  }
};

}  // namespace

TEST_CASE("a shape's step is captured when it comes again, and each replay reads the batch at hand") {
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
}

TEST_CASE("where the device has no memory for graphs, steps run as they are") {
  Fixture f;
  for (const Scalar mask : {1.0F, 2.0F}) f.check(4, mask);
  CHECK(Recorder::captures == 1);
  Recorder::full = true;
  for (const Scalar mask : {1.0F, 2.0F}) f.check(5, mask);
  Recorder::full = false;
  for (const Scalar mask : {1.0F, 2.0F, 3.0F}) f.check(4, mask);
  for (const Scalar mask : {1.0F, 2.0F, 3.0F}) f.check(5, mask);
  CHECK(Recorder::captures == 1);
}
