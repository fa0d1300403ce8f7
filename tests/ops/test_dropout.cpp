// Dropout: its mean, its share of zeros, and that the choice depends on the stream alone.

#include <doctest/doctest.h>
#include <omp.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("Dropout keeps the mean and drops the share that it is told", T, float, double) {
  constexpr Index n = 200000;
  for (const double p : {0.1, 0.5, 0.9}) {
    const auto y = dropout(Tensor<T, Device>::ones({n}), p, {3, 1}).to_host();
    double total = 0, zeros = 0;
    for (const T v : y) {
      total += static_cast<double>(v);
      zeros += v == T(0);
      if (v != T(0)) REQUIRE(static_cast<double>(v) == doctest::Approx(1 / (1 - p)));
    }
    // Four standard deviations of a mean of n independent choices.
    const double spread = 4 * std::sqrt(p * (1 - p) / static_cast<double>(n));
    CHECK(std::abs(zeros / static_cast<double>(n) - p) <= spread);
    CHECK(std::abs(total / static_cast<double>(n) - 1) <= spread / (1 - p));
  }
}

TEST_CASE("Dropout chooses by the stream: the same for any number of threads, another for another stream") {
  const auto x = noise<float>({50000});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = dropout(x, 0.3, {9, 2}).to_host();
  omp_set_num_threads(3);
  const auto three = dropout(x, 0.3, {9, 2}).to_host();
  omp_set_num_threads(threads);
  CHECK(one == three);
  CHECK(one != dropout(x, 0.3, {9, 3}).to_host());
  CHECK(one != dropout(x, 0.3, {8, 2}).to_host());
}

TEST_CASE("The gradient goes through what dropout kept") {
  auto x = Tensor<double, Device>::ones({1000}).set_requires_grad();
  const auto y = dropout(x, 0.25, {1, 1});
  backward(sum(y));
  CHECK(x.grad().to_host() == y.to_host());
}

TEST_CASE("Dropout of nothing is the input; an impossible probability is refused") {
  const auto x = noise<float>({10});
  CHECK(dropout(x, 0, {1, 1}).data() == x.data());
  for (const double p : {-0.1, 1.0, 1.5, std::nan("")})
    CHECK(lacks<ArgumentError>([&] { dropout(x, p, {1, 1}); }, {"dropout", "[0, 1)"}) == "");
}
