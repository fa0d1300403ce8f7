// Activations against the standard library in double, and their kinks and ends.

#include <doctest/doctest.h>
#include <numbers>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

template <class T>
double worst(Tensor<T, Device> (*op)(const Tensor<T, Device>&), double (*reference)(double)) {
  const auto x = noise<T>({1000}) * T(3);
  std::vector<double> expected;
  for (const double v : doubles(x)) expected.push_back(reference(v));
  return worst_error(op(x), expected);
}

double logistic(double x) { return 1 / (1 + std::exp(-x)); }

struct Cube {
  MOLE_HD double operator()(double x) const { return x * x * x; }
  MOLE_HD double slope(double x, double) const { return 3 * x * x; }
};

}  // namespace

TEST_CASE_TEMPLATE("Activations equal their formulas", T, float, double) {
  CHECK(worst<T>(relu, [](double x) { return std::max(x, 0.0); }) == 0);
  CHECK(worst<T>(gelu, [](double x) { return x / 2 * (1 + std::erf(x / std::numbers::sqrt2)); }) <= tight<T>);
  CHECK(worst<T>(gelu_tanh, [](double x) {
          return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
        }) <= tight<T>);
  CHECK(worst<T>(silu, [](double x) { return x * logistic(x); }) <= tight<T>);
  CHECK(worst<T>(quick_gelu, [](double x) { return x * logistic(1.702 * x); }) <= tight<T>);
  CHECK(worst<T>(sigmoid, logistic) <= tight<T>);
  CHECK(worst<T>(tanh, [](double x) { return std::tanh(x); }) <= tight<T>);
  CHECK(worst<T>(exp, [](double x) { return std::exp(x); }) <= tight<T>);
  CHECK(worst<T>(square, [](double x) { return x * x; }) <= tight<T>);
  CHECK(worst<T>(log, [](double x) { return std::log(x); }) <= tight<T>);
}

TEST_CASE("relu's pullback is checked beside its kink, and is 0 at it") {
  const auto x = Tensor<double, Device>::from({5}, {-1, 0, 2, 1e-7, -3});
  const auto f = [](const auto& v) { return relu(v[0]); };
  CHECK_FALSE(grad_check<Device>(f, {x}).ok);
  GradCheckOptions options;
  options.skip = [](std::size_t, Index element) { return element == 1 || element == 3; };
  const auto result = grad_check<Device>(f, {x}, options);
  CHECK(result.ok);
  CHECK(result.compared == 15);

  auto leaf = x.clone().set_requires_grad();
  backward(sum(relu(leaf)));
  CHECK(leaf.grad().to_host() == std::vector<double>{0, 0, 1, 1, 0});
}

TEST_CASE_TEMPLATE("Saturated activations and their slopes stay finite", T, float, double) {
  auto x = Tensor<T, Device>::from({4}, {T(-1000), T(-50), T(50), T(1000)}).set_requires_grad();
  const std::vector<std::pair<Tensor<T, Device> (*)(const Tensor<T, Device>&), std::vector<double>>> ends{
      {sigmoid, {0, 0, 1, 1}},  {tanh, {-1, -1, 1, 1}},         {gelu, {0, 0, 50, 1000}},
      {silu, {0, 0, 50, 1000}}, {quick_gelu, {0, 0, 50, 1000}}, {gelu_tanh, {0, 0, 50, 1000}}};
  for (const auto& [op, expected] : ends) {
    x.zero_grad();
    const auto y = op(x);
    CHECK(worst_error(y, expected) <= 1e-15);
    backward(sum(y));
    const bool step = expected[0] == 0 && expected[3] == 1000;
    CHECK(worst_error(x.grad(), {0, 0, step ? 1.0 : 0.0, step ? 1.0 : 0.0}) <= 1e-15);
  }
}

TEST_CASE_TEMPLATE("NaN goes through every activation", T, float, double) {
  const auto nan = Tensor<T, Device>::scalar(std::numeric_limits<T>::quiet_NaN());
  for (auto op : {gelu<T, Device>, gelu_tanh<T, Device>, silu<T, Device>, sigmoid<T, Device>, tanh<T, Device>,
                  exp<T, Device>, log<T, Device>, square<T, Device>, relu<T, Device>})
    CHECK(std::isnan(op(nan).item()));
}

TEST_CASE("A user's functor becomes an op with its own slope") {
  CHECK(grad_check<Device>([](const auto& v) { return map(v[0], Cube{}); }, {noise<double>({2, 3})}).ok);
}
