#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <mole/compose/lorahub.hpp>

#include "compose/loras.hpp"

using namespace compose_test;
using mole::lorahub_search;
using mole::LorahubOptions;

namespace {

const Numbers target{0.8, -0.3, 0.5};

double distance(const Numbers& w) {
  double sum = 0;
  for (std::size_t i = 0; i < target.size(); ++i) sum += (w[i] - target[i]) * (w[i] - target[i]);
  return sum;
}

LorahubOptions with_seed(std::uint64_t seed) {
  LorahubOptions options;
  options.seed = seed;
  return options;
}

}  // namespace

TEST_CASE("LoRAHub's search begins at zero, keeps its budget and bounds, and comes near the minimum") {
  int calls = 0;
  bool bounded = true;
  Numbers first;
  const auto found = lorahub_search(3, [&](const Numbers& w) {
    if (++calls == 1) first = w;
    for (const double x : w) bounded = bounded && std::abs(x) <= 1.5;
    return distance(w);
  });
  CHECK(first == Numbers{0, 0, 0});
  CHECK(calls == 40);
  CHECK(bounded);
  CHECK(found.history.size() == 40);
  // The penalty of 0.05 / 3 on |w| moves the minimum by 0.05 / 6.
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(found.weights[i] - target[i]) < 0.02);
}

TEST_CASE("LoRAHub's objective is the loss plus l1 times the mean of |w|, and its result the best it saw") {
  const auto found = lorahub_search(3, distance, with_seed(3));
  double size = 0;
  for (const double w : found.weights) size += std::abs(w);
  CHECK(found.objective == doctest::Approx(distance(found.weights) + 0.05 * size / 3).epsilon(1e-14));
  for (const double value : found.history) CHECK(value >= found.objective);
}

TEST_CASE("LoRAHub is reproducible by seed, and another seed is another search") {
  const auto a = lorahub_search(3, distance, with_seed(1)), b = lorahub_search(3, distance, with_seed(1)),
             c = lorahub_search(3, distance, with_seed(2));
  CHECK(a.weights == b.weights);
  CHECK(a.history == b.history);
  CHECK(a.history != c.history);
}

TEST_CASE("LoRAHub's search gets over losses that are not finite, but not over nothing else") {
  const auto found = lorahub_search(3, [](const Numbers& w) {
    return w[0] > 0.9 ? std::numeric_limits<double>::quiet_NaN() : distance(w);
  });
  CHECK(distance(found.weights) < 0.05);
  CHECK_THROWS_WITH_AS(lorahub_search(2, [](const Numbers&) { return std::log(-1.0); }),
                       doctest::Contains("losses was finite"), mole::NumericError);
}

TEST_CASE("LoRAHub's search passes on what the loss throws") {
  int calls = 0;
  const auto loss = [&](const Numbers& w) {
    if (++calls == 3) throw std::runtime_error("out of examples");
    return distance(w);
  };
  CHECK_THROWS_WITH_AS(lorahub_search(3, loss), "out of examples", std::runtime_error);
  CHECK(calls == 3);
}

TEST_CASE("LoRAHub's search says what is wrong with its options") {
  const auto with = [](auto change) {
    LorahubOptions options;
    change(options);
    return [options] { lorahub_search(3, distance, options); };
  };
  using mole::testing::lacks;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(lacks<mole::ArgumentError>([] { lorahub_search(0, distance); }, {"list of experts is empty"}) == "");
  CHECK(lacks<mole::ArgumentError>(with([](auto& o) { o.budget = 0; }), {"budget", "got 0"}) == "");
  CHECK(lacks<mole::ArgumentError>(with([](auto& o) { o.bound = 0; }), {"bound", "got 0"}) == "");
  CHECK(lacks<mole::ArgumentError>(with([&](auto& o) { o.l1 = nan; }), {"l1", "got nan"}) == "");
}

TEST_CASE("LoRAHub on a model leaves the experts merged by the best weights") {
  using Device = mole::testing::Device;
  mole::SlotTable<double, Device> table;
  table.add_group({}, {{"layer", d_out, d_in}});
  table.slots[0].weight = mole::Tensor<double, Device>::zeros({d_out, d_in});
  const auto sets = sets_of({lora(0), lora(1), lora(2)});
  mole::ComposeOptions options;
  options.weights = target;
  const auto wanted = change(mole::compose("lorahub", sets, options).factors("layer"));
  const auto loss = [&] {
    const auto now = mole::testing::doubles(table.slots[0].merged);
    double sum = 0;
    for (std::size_t j = 0; j < now.size(); ++j) sum += std::abs(now[j] - wanted[j]) / 1000;
    return sum;
  };
  const auto found = mole::lorahub(table, sets, loss);
  options.weights = found.weights;
  const auto expected = change(mole::compose("lorahub", sets, options).factors("layer"));
  CHECK(mole::testing::worst_error(table.slots[0].merged, expected) < 1e-13);
  CHECK(found.objective < found.history.front() / 2);
}
