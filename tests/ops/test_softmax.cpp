// Softmax and log-softmax: masks, infinities, huge values.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// Row-wise softmax in double over the columns that are kept, 0 elsewhere.
std::vector<double> reference(const std::vector<double>& x, const std::vector<double>& keep, std::size_t n) {
  std::vector<double> y(x.size());
  for (std::size_t r = 0; r < x.size(); r += n) {
    double top = -INFINITY, total = 0;
    for (std::size_t j = r; j < r + n; ++j)
      if (keep[j] != 0) top = std::max(top, x[j]);
    for (std::size_t j = r; j < r + n; ++j)
      if (keep[j] != 0 && x[j] > -INFINITY) total += y[j] = std::exp(x[j] - top);
    for (std::size_t j = r; j < r + n; ++j)
      if (total > 0) y[j] /= total;
  }
  return y;
}

}  // namespace

TEST_CASE_TEMPLATE("softmax and log_softmax equal a loop, with masks of any broadcast shape", T, float,
                   double) {
  for (const Index n : {1, 2, 7, 33}) {
    const auto x = noise<T>({2, 3, n}) * T(3);
    const auto size = static_cast<std::size_t>(n);
    for (const Shape& shape :
         {Shape{2, 3, n}, Shape{n}, Shape{2, 1, n}, Shape{2, 3, 1}, Shape{3, 1}, Shape{}}) {
      std::vector<T> kept;
      for (Index i = 0; i < shape.size(); ++i) kept.push_back(i % 3 == 1 ? T(0) : T(1));
      const auto mask = Tensor<T, Device>::from(shape, kept);
      CAPTURE(shape);
      CAPTURE(n);
      const auto expected = reference(doubles(x), doubles(Tensor<T, Device>::ones(x.shape()) * mask), size);
      CHECK(worst_error(softmax(x, mask), expected) <= tight<T>);
      std::vector<double> logarithm;
      for (const double p : expected) logarithm.push_back(std::log(p));
      CHECK(worst_error(log_softmax(x, mask), logarithm) <= tight<T>);
    }
    const auto expected = reference(doubles(x), std::vector<double>(6 * size, 1), size);
    CHECK(worst_error(softmax(x), expected) <= tight<T>);
  }
}

TEST_CASE_TEMPLATE("A row that is masked whole is 0, its logarithm minus infinity, its gradient 0", T, float,
                   double) {
  auto x = noise<T>({2, 3}).set_requires_grad();
  const auto mask = Tensor<T, Device>::from({2, 1}, {1, 0});
  const auto p = softmax(x, mask), q = log_softmax(x, mask);
  CHECK(slice(p, 0, 1, 2).to_host() == std::vector<T>(3, T(0)));
  CHECK(slice(q, 0, 1, 2).to_host() == std::vector<T>(3, -std::numeric_limits<T>::infinity()));
  CHECK(sum(slice(p, 0, 0, 1)).item() == doctest::Approx(1));
  for (const auto& y : {p, q}) {
    x.zero_grad();
    backward(y, noise<T>({2, 3}, 5));
    const auto dx = x.grad().to_host();
    CHECK(std::vector<T>(dx.begin() + 3, dx.end()) == std::vector<T>(3, T(0)));
    for (const T v : dx) CHECK(std::isfinite(v));
  }
}

TEST_CASE_TEMPLATE("Minus infinity is a masked element, huge values do not overflow", T, float, double) {
  constexpr T inf = std::numeric_limits<T>::infinity(), huge = std::numeric_limits<T>::max() / 4;
  const auto x = Tensor<T, Device>::from(
      {4, 3}, {T(1), -inf, T(1), -inf, -inf, -inf, huge, T(0), huge, -huge, T(3), T(3)});
  const std::vector<double> expected{0.5, 0, 0.5, 0, 0, 0, 0.5, 0, 0.5, 0, 0.5, 0.5};
  CHECK(worst_error(softmax(x), expected) <= tight<T>);
  const auto logarithm = log_softmax(x).to_host();
  CHECK(logarithm[0] == doctest::Approx(std::log(0.5)));
  for (const std::size_t i : {1u, 3u, 4u, 5u}) CHECK(logarithm[i] == -inf);
  CHECK(logarithm[7] == -huge);
}

TEST_CASE_TEMPLATE("NaN shows in its whole row and in no other", T, float, double) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  const auto x = Tensor<T, Device>::from({3, 2}, {T(1), nan, T(1), T(1), nan, nan});
  for (const auto& y : {softmax(x), log_softmax(x)}) {
    const auto values = y.to_host();
    for (const std::size_t i : {0u, 1u, 4u, 5u}) CHECK(std::isnan(values[i]));
    for (const std::size_t i : {2u, 3u}) CHECK(std::isfinite(values[i]));
  }
}

TEST_CASE("softmax refuses a scalar and a mask that does not fit") {
  const auto x = Tensor<float, Device>::ones({2, 3});
  CHECK(lacks<ShapeError>([&] { softmax(Tensor<float, Device>::scalar(1)); }, {"softmax", "[]"}) == "");
  CHECK(lacks<ShapeError>([&] { log_softmax(Tensor<float, Device>::scalar(1)); }, {"log_softmax", "[]"}) ==
        "");
  CHECK(lacks<ShapeError>([&] { softmax(x, Tensor<float, Device>::ones({4})); },
                          {"softmax", "[2, 3]", "[4]"}) == "");
  CHECK(lacks<ShapeError>(
            [&] {
              softmax(x, Tensor<float, Device>::ones({5, 2, 3}));
            },
            {"softmax", "[5, 2, 3]", "[2, 3]"}) == "");
}
