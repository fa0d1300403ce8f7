#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("group_norm with one group and one pixel is layer_norm", T, float, double) {
  const auto x = noise<T>({3, 1, 1, 8}, 1), w = noise<T>({8}, 2), c = noise<T>({8}, 3);
  CHECK(worst_error(doubles(group_norm(x, 1, w, c)), doubles(layer_norm(x, w, c))) <= 5 * tight<T>);
}

TEST_CASE_TEMPLATE("group_norm brings each group of an image to mean 0 and variance 1", T, float, double) {
  const auto x = noise<T>({2, 7, 5, 6}, 1);
  const auto y = group_norm(x, 3, Tensor<T, Device>::ones({6}), Tensor<T, Device>::zeros({6}), T(0));
  const auto grouped = reshape(permute(reshape(y, {2, 35, 3, 2}), {0, 2, 1, 3}), {2, 3, 70});
  for (const double mean : doubles(mole::mean(grouped, {-1}))) CHECK(std::abs(mean) <= 10 * tight<T>);
  for (const double square : doubles(mole::mean(mole::square(grouped), {-1})))
    CHECK(std::abs(square - 1) <= 10 * tight<T>);
}

TEST_CASE_TEMPLATE(
    "Of thousands of pixels group_norm and its pullback are those of layer_norm on each group's elements", T,
    float, double) {
  const auto x = noise<T>({2, 50, 60, 6}, 1).set_requires_grad(), same = x.clone().set_requires_grad();
  const auto y = group_norm(x, 3, Tensor<T, Device>::ones({6}), Tensor<T, Device>::zeros({6}));
  const auto grouped = reshape(permute(reshape(same, {2, 3000, 3, 2}), {0, 2, 1, 3}), {2, 3, 6000});
  const auto standard =
      layer_norm(grouped, Tensor<T, Device>::ones({6000}), Tensor<T, Device>::zeros({6000}));
  const auto expected = reshape(permute(reshape(standard, {2, 3, 3000, 2}), {0, 2, 1, 3}), {2, 50, 60, 6});
  CHECK(worst_error(doubles(y), doubles(expected)) <= 10 * tight<T>);
  const auto G = noise<T>(y.shape(), 2);
  backward(y, G);
  backward(expected, G);
  CHECK(worst_error(doubles(x.grad()), doubles(same.grad())) <= 10 * tight<T>);
}

TEST_CASE("group_norm refuses channels that do not divide into the groups") {
  using Tn = Tensor<float, Device>;
  const auto x = Tn::zeros({1, 2, 2, 6});
  CHECK_THROWS_AS(group_norm(x, 4, Tn::ones({6}), Tn::zeros({6})), ShapeError);
  CHECK_THROWS_AS(group_norm(x, 0, Tn::ones({6}), Tn::zeros({6})), ShapeError);
  CHECK_THROWS_AS(group_norm(x, 2, Tn::ones({5}), Tn::zeros({6})), ShapeError);
}
