// Clipping by the global norm.

#include <limits>
#include <vector>

#include <doctest/doctest.h>
#include <mole/optim/clip_gradients.hpp>
#include <testing.hpp>

using mole::Index;
using mole::testing::Device;

namespace {

template <class T>
using Tensor = mole::Tensor<T, Device>;

template <class T>
Tensor<T> with_gradient(const Tensor<T>& gradient) {
  auto parameter = Tensor<T>::zeros(gradient.shape()).set_requires_grad();
  parameter.set_grad(gradient);
  return parameter;
}

}  // namespace

TEST_CASE_TEMPLATE("Gradients above the limit are scaled to it together, and the old norm comes back", T,
                   float, double) {
  const auto a = with_gradient(Tensor<T>::from({2}, {3, 0})), b = with_gradient(Tensor<T>::from({1, 1}, {4}));
  const auto none = Tensor<T>::zeros({3}).set_requires_grad();
  CHECK(clip_grad_norm(std::vector{a, none, b}, 2.5) == doctest::Approx(5));
  CHECK(static_cast<double>(a.grad().to_host()[0]) == doctest::Approx(1.5).epsilon(1e-6));
  CHECK(static_cast<double>(a.grad().to_host()[1]) == 0);
  CHECK(static_cast<double>(b.grad().item()) == doctest::Approx(2).epsilon(1e-6));
  CHECK_FALSE(none.grad().defined());
}

TEST_CASE_TEMPLATE("Gradients within the limit stay as they are, to the bit", T, float, double) {
  const auto gradient = Tensor<T>::from({2}, {T(0.3), T(0.4)});
  const auto parameter = with_gradient(gradient);
  CHECK(clip_grad_norm(std::vector{parameter}, 1) == doctest::Approx(0.5));
  CHECK(parameter.grad().node_pointer() == gradient.node_pointer());
  CHECK(parameter.grad().to_host() == std::vector<T>{T(0.3), T(0.4)});
  CHECK(clip_grad_norm(std::vector{Tensor<T>::zeros({2}).set_requires_grad()}, 1) == 0);
}

TEST_CASE_TEMPLATE("A gradient shared by two parameters is scaled once for each and never in place", T, float,
                   double) {
  const auto shared = Tensor<T>::full({2}, T(2));
  const auto a = with_gradient(shared), b = with_gradient(Tensor<T>(mole::Shape{2}, shared.buffer()));
  CHECK(clip_grad_norm(std::vector{a, b}, 2) == doctest::Approx(4));
  for (const auto& parameter : {a, b})
    for (const T g : parameter.grad().to_host())
      CHECK(static_cast<double>(g) == doctest::Approx(1).epsilon(1e-6));
  CHECK(shared.to_host() == std::vector<T>{2, 2});
}

TEST_CASE_TEMPLATE("The norm takes in every element of a long gradient", T, float, double) {
  const Index n = 3 * 4096 + 17;
  const auto parameter = with_gradient(Tensor<T>::full({n}, T(0.5)));
  CHECK(clip_grad_norm(std::vector{parameter}, 1e6) ==
        doctest::Approx(std::sqrt(0.25 * static_cast<double>(n))));
}

TEST_CASE_TEMPLATE("Gradients whose squares overflow are scaled as others are", T, float, double) {
  const T large = std::same_as<T, float> ? T(3e25) : T(3e200);
  const auto a = with_gradient(Tensor<T>::from({2}, {large, -large}));
  const double norm = clip_grad_norm(std::vector{a}, 1);
  CHECK(norm == doctest::Approx(std::sqrt(2.0) * static_cast<double>(large)));
  for (const T g : a.grad().to_host())
    CHECK(std::abs(static_cast<double>(g)) == doctest::Approx(std::sqrt(0.5)));
}

TEST_CASE_TEMPLATE("A norm that is no number is an error and leaves the gradients alone", T, float, double) {
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  for (const T bad : {infinity, nan}) {
    const auto a = with_gradient(Tensor<T>::from({2}, {T(8), bad}));
    CHECK_THROWS_AS(clip_grad_norm(std::vector{a}, 1), mole::NumericError);
    CHECK(a.grad().to_host()[0] == T(8));
  }
  CHECK_THROWS_AS(clip_grad_norm(std::vector<Tensor<T>>{}, 0), mole::ArgumentError);
  CHECK_THROWS_AS(clip_grad_norm(std::vector<Tensor<T>>{}, static_cast<double>(nan)), mole::ArgumentError);
}
