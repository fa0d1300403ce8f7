// Sgd and AdamW against plain double loops, on a quadratic, and across a save and resume.

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <mole/autodiff/backward.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/optim/sgd.hpp>
#include <testing.hpp>

using mole::Index;
using mole::testing::Device;

namespace {

template <class T>
using Tensor = mole::Tensor<T, Device>;

/// Element i of the gradient at step t.
double gradient_at(Index t, std::size_t i) {
  return mole::normal({5, static_cast<std::uint64_t>(t)}, static_cast<Index>(i));
}

constexpr std::size_t count = 5;

template <class T>
Tensor<T> start() {
  return Tensor<T>::from({count}, {T(0.5), T(-1), T(2), T(0), T(1e-3)}).set_requires_grad();
}

template <class T>
void set_gradient(const Tensor<T>& parameter, Index t) {
  std::vector<T> values(static_cast<std::size_t>(parameter.size()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(gradient_at(t, i));
  parameter.set_grad(Tensor<T>::from(parameter.shape(), values));
}

template <class T>
void check_close(const Tensor<T>& found, const std::vector<double>& expected) {
  const auto values = found.to_host();
  REQUIRE(values.size() == expected.size());
  const double tolerance = std::is_same_v<T, float> ? 1e-5 : 1e-13;
  for (std::size_t i = 0; i < values.size(); ++i)
    CHECK(std::abs(static_cast<double>(values[i]) - expected[i]) <= tolerance * (1 + std::abs(expected[i])));
}

/// Sum of the squares of a - 1 and of b - 1 times 5: its minimum is at 1.
template <class T>
Tensor<T> bowl(const Tensor<T>& a, const Tensor<T>& b) {
  return sum(square(a - T(1))) + T(5) * sum(square(b - T(1)));
}

template <class T, class O>
void check_reaches_minimum(O optimizer, const Tensor<T>& a, const Tensor<T>& b, double rate) {
  for (int t = 0; t < 500; ++t) {
    optimizer.zero_grad();
    backward(bowl(a, b));
    optimizer.step(rate * (1 - t / 500.0));
  }
  CHECK(static_cast<double>(bowl(a, b).item()) < 1e-6);
}

/// Twelve steps of make() in one go, and six, then six more by a fresh optimiser that was given the state.
template <class T, class Make>
void check_resumes(Make make) {
  const auto whole = start<T>(), late = start<T>();
  auto run = [](auto& optimizer, Index first, Index last) {
    for (Index t = first; t < last; ++t) {
      set_gradient(optimizer.parameters()[0], t);
      optimizer.parameters()[1].zero_grad();
      if (t >= 4) set_gradient(optimizer.parameters()[1], t + 100);
      optimizer.step(0.01 * static_cast<double>(t + 1));
    }
  };
  auto unbroken = make({whole, late});
  run(unbroken, 0, 12);

  auto before = make({start<T>(), start<T>()});
  run(before, 0, 6);
  std::vector<std::vector<T>> parameters, state;
  for (const auto& x : before.parameters()) parameters.push_back(x.to_host());
  for (const auto& x : before.state()) state.push_back(x.to_host());

  auto after = make({start<T>(), start<T>()});
  for (std::size_t i = 0; i < parameters.size(); ++i)
    after.parameters()[i].assign(Tensor<T>::from({count}, parameters[i]));
  for (std::size_t i = 0; i < state.size(); ++i) after.state()[i].assign(Tensor<T>::from({count}, state[i]));
  after.set_steps(before.steps());
  run(after, 6, 12);
  for (std::size_t i = 0; i < 2; ++i)
    CHECK(after.parameters()[i].to_host() == unbroken.parameters()[i].to_host());
  CHECK(after.steps() == std::vector<Index>{12, 8});
}

}  // namespace

TEST_CASE_TEMPLATE("Sgd takes the steps of the plain formula", T, float, double) {
  for (const mole::SgdOptions options :
       {mole::SgdOptions{}, mole::SgdOptions{0.9, 0}, mole::SgdOptions{0.8, 0.1}}) {
    const auto parameter = start<T>();
    const auto first = parameter.to_host();
    std::vector<double> p(first.begin(), first.end()), b(count);
    mole::Sgd<T, Device> sgd({parameter}, options);
    CHECK(sgd.state().size() == (options.momentum != 0 ? 1 : 0));
    for (Index t = 0; t < 7; ++t) {
      set_gradient(parameter, t);
      sgd.step(0.1);
      for (std::size_t i = 0; i < count; ++i) {
        b[i] = options.momentum * b[i] + gradient_at(t, i) + options.weight_decay * p[i];
        p[i] -= 0.1 * b[i];
      }
    }
    check_close(parameter, p);
  }
}

TEST_CASE_TEMPLATE("AdamW takes the steps of the plain formula", T, float, double) {
  for (const mole::AdamWOptions options : {mole::AdamWOptions{}, mole::AdamWOptions{0.8, 0.95, 1e-4, 0.3}}) {
    const auto parameter = start<T>();
    const auto first = parameter.to_host();
    std::vector<double> p(first.begin(), first.end()), m(count), v(count);
    mole::AdamW<T, Device> adamw({parameter}, options);
    for (int t = 1; t <= 9; ++t) {
      set_gradient(parameter, t);
      const double rate = 0.05 / t;
      adamw.step(rate);
      for (std::size_t i = 0; i < count; ++i) {
        const double g = gradient_at(t, i);
        m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
        v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
        const double mean = m[i] / (1 - std::pow(options.beta1, t));
        const double square = v[i] / (1 - std::pow(options.beta2, t));
        p[i] -= rate * (mean / (std::sqrt(square) + options.eps) + options.weight_decay * p[i]);
      }
    }
    check_close(parameter, p);
    check_close(adamw.state()[0], m);
    check_close(adamw.state()[1], v);
  }
}

TEST_CASE_TEMPLATE("AdamW's first step has the length of the rate, whatever the gradient's", T, float,
                   double) {
  auto parameter = Tensor<T>::zeros({3}).set_requires_grad();
  parameter.set_grad(Tensor<T>::from({3}, {T(1e-3), T(-7), T(1e4)}));
  mole::AdamW<T, Device>({parameter}).step(0.25);
  const auto p = parameter.to_host();
  CHECK(static_cast<double>(p[0]) == doctest::Approx(-0.25).epsilon(1e-4));
  CHECK(static_cast<double>(p[1]) == doctest::Approx(0.25).epsilon(1e-4));
  CHECK(static_cast<double>(p[2]) == doctest::Approx(-0.25).epsilon(1e-4));
}

TEST_CASE_TEMPLATE("Both optimisers reach the minimum of a quadratic", T, float, double) {
  auto make = [] { return Tensor<T>::from({2}, {T(4), T(-3)}).set_requires_grad(); };
  SUBCASE("Sgd") {
    const auto a = make(), b = make();
    check_reaches_minimum(mole::Sgd<T, Device>({a, b}), a, b, 0.05);
  }
  SUBCASE("Sgd with momentum") {
    const auto a = make(), b = make();
    check_reaches_minimum(mole::Sgd<T, Device>({a, b}, {.momentum = 0.9}), a, b, 0.01);
  }
  SUBCASE("AdamW") {
    const auto a = make(), b = make();
    check_reaches_minimum(mole::AdamW<T, Device>({a, b}, {.weight_decay = 0}), a, b, 0.1);
  }
}

TEST_CASE_TEMPLATE("A resumed run ends in the same bits as an unbroken one", T, float, double) {
  using List = std::vector<Tensor<T>>;
  SUBCASE("Sgd") {
    check_resumes<T>([](List p) { return mole::Sgd<T, Device>(p, {0.9, 0.01}); });
  }
  SUBCASE("AdamW") {
    check_resumes<T>([](List p) { return mole::AdamW<T, Device>(p); });
  }
}

TEST_CASE_TEMPLATE("A parameter without a gradient sits the step out, and its correction starts later", T,
                   float, double) {
  const auto a = start<T>(), b = start<T>();
  const auto before = b.to_host();
  mole::AdamW<T, Device> adamw({a, b});
  for (Index t = 0; t < 3; ++t) {
    set_gradient(a, t);
    adamw.step(0.1);
  }
  CHECK(b.to_host() == before);
  set_gradient(b, 0);
  adamw.zero_grad();
  CHECK_FALSE(a.grad().defined());
  CHECK_FALSE(b.grad().defined());
  set_gradient(b, 0);
  adamw.step(0.1);
  CHECK(adamw.steps() == std::vector<Index>{3, 1});
  const auto alone = start<T>();
  set_gradient(alone, 0);
  mole::AdamW<T, Device>({alone}).step(0.1);
  CHECK(b.to_host() == alone.to_host());
}

TEST_CASE_TEMPLATE("A step leaves a gradient that two parameters share as it was", T, float, double) {
  const auto a = start<T>(), b = start<T>();
  const auto shared = Tensor<T>::ones({count});
  a.set_grad(shared);
  b.set_grad(shared);
  mole::Sgd<T, Device>({a, b}, {0.9, 0.1}).step(0.1);
  mole::AdamW<T, Device>({a, b}).step(0.1);
  CHECK(a.to_host() == b.to_host());
  CHECK(shared.to_host() == std::vector<T>(count, T(1)));
}

TEST_CASE("What cannot be trained is refused with its position") {
  using D = Tensor<double>;
  using Sgd = mole::Sgd<double, Device>;
  using AdamW = mole::AdamW<double, Device>;
  const auto good = start<double>();
  CHECK_THROWS_WITH_AS(Sgd({}), doctest::Contains("no parameters"), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(Sgd({good, D::ones({2})}), doctest::Contains("parameter 1 requires no gradient"),
                       mole::ArgumentError);
  CHECK_THROWS_AS(AdamW({D{}}), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(AdamW({start<double>(), good, good}), doctest::Contains("parameters 1 and 2"),
                       mole::ArgumentError);
  CHECK_THROWS_AS(Sgd({good}, {.momentum = 1}), mole::ArgumentError);
  CHECK_THROWS_AS(Sgd({good}, {.weight_decay = -1}), mole::ArgumentError);
  CHECK_THROWS_AS(AdamW({good}, {.beta1 = 1}), mole::ArgumentError);
  CHECK_THROWS_AS(AdamW({good}, {.beta2 = -0.1}), mole::ArgumentError);
  CHECK_THROWS_AS(AdamW({good}, {.eps = 0}), mole::ArgumentError);
  CHECK_THROWS_AS(AdamW({good}, {.weight_decay = NAN}), mole::ArgumentError);
  AdamW adamw({good});
  for (const double rate : {-1e-3, static_cast<double>(NAN), std::numeric_limits<double>::infinity()})
    CHECK_THROWS_AS(adamw.step(rate), mole::ArgumentError);
  CHECK_THROWS_AS(adamw.set_steps({1, 2}), mole::ArgumentError);
  CHECK_THROWS_AS(adamw.set_steps({-1}), mole::ArgumentError);
}
