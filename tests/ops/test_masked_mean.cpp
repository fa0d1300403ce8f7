// The mean over real tokens. Its gradients are also in op_cases.hpp.

#include <doctest/doctest.h>

#include <limits>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/ops/masked_mean.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("masked_mean reads real tokens alone, even beside NaN; no token is 0", T, float, double) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  auto x =
      Tensor<T, Device>::from({3, 2, 2}, {1, 2, 3, 6, 5, 7, nan, nan, nan, 1, 1, nan}).set_requires_grad();
  const auto mask = Tensor<T, Device>::from({3, 2}, {1, 1, 1, 0, 0, 0});
  const auto y = masked_mean(x, mask);
  CHECK(y.to_host() == std::vector<T>{2, 4, 5, 7, 0, 0});
  backward(y, Tensor<T, Device>::from({3, 2}, {2, 4, 6, 8, 1, 1}));
  CHECK(x.grad().to_host() == std::vector<T>{1, 2, 1, 2, 6, 8, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("A mask that is not of the sequences' tokens is refused") {
  using F = Tensor<float, Device>;
  CHECK(lacks<ShapeError>(
            [] {
              masked_mean(F::ones({2, 3, 4}), F::ones({2, 4}));
            },
            {"masked_mean", "[2, 3, 4]", "[2, 4]"}) == "");
}
