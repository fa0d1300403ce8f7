// Tensors: making them, looking at them, and what is refused.

#include <doctest/doctest.h>

#include <algorithm>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("A tensor holds what it was made of", T, float, double) {
  CHECK(Tensor<T, Device>::zeros({2, 2}).to_host() == std::vector<T>(4, T(0)));
  CHECK(Tensor<T, Device>::ones({3}).to_host() == std::vector<T>(3, T(1)));
  CHECK(Tensor<T, Device>::full({1, 2}, T(7)).to_host() == std::vector<T>(2, T(7)));
  CHECK(Tensor<T, Device>::scalar(T(4)).item() == T(4));
  const auto x = Tensor<T, Device>::from({2, 3}, {1, 2, 3, 4, 5, 6});
  CHECK(x.shape() == Shape{2, 3});
  CHECK(x.rank() == 2);
  CHECK(x.size() == 6);
  CHECK(x.size(-1) == 3);
  CHECK(x.to_host() == std::vector<T>{1, 2, 3, 4, 5, 6});
  CHECK(Tensor<T, Device>::from({2}, std::vector<T>{8, 9}).to_host() == std::vector<T>{8, 9});
}

TEST_CASE("randn is a function of the stream, the same in float as in double up to rounding") {
  const auto x = Tensor<double, Device>::randn({100}, {1, 2}, 3.0),
             y = Tensor<double, Device>::randn({100}, {1, 2}, 3.0);
  CHECK(x.to_host() == y.to_host());
  CHECK(x.to_host() != Tensor<double, Device>::randn({100}, {1, 3}, 3.0).to_host());
  CHECK(worst_error(Tensor<float, Device>::randn({100}, {1, 2}, 3.0f), doubles(x)) <= 1e-6);
}

TEST_CASE("Uniform values are a function of the stream, lie within the bound and fill it") {
  const auto x = Tensor<double, Device>::uniform({40, 50}, {1, 2}, 0.25);
  CHECK(x.shape() == Shape{40, 50});
  const auto values = x.to_host();
  CHECK(values == Tensor<double, Device>::uniform({40, 50}, {1, 2}, 0.25).to_host());
  CHECK(values != Tensor<double, Device>::uniform({40, 50}, {1, 3}, 0.25).to_host());
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  CHECK((*least >= -0.25 && *least < -0.24));
  CHECK((*most < 0.25 && *most > 0.24));
  CHECK(values[1234] == (2 * uniform({1, 2}, 1234) - 1) * 0.25);
}

TEST_CASE("Copies share a value; clone does not; detach shares the value but not the tape") {
  auto x = Tensor<float, Device>::ones({2}).set_requires_grad();
  const auto same = x, own = x.clone(), off = x.detach();
  x.fill(5);
  CHECK(same.to_host() == std::vector<float>{5, 5});
  CHECK(own.to_host() == std::vector<float>{1, 1});
  CHECK(off.to_host() == std::vector<float>{5, 5});
  CHECK(same.requires_grad());
  CHECK_FALSE(own.requires_grad());
  CHECK_FALSE(off.requires_grad());
  own.assign(Tensor<float, Device>::from({2}, {3, 4}));
  CHECK(own.to_host() == std::vector<float>{3, 4});
}

TEST_CASE("An undefined tensor says so") {
  const Tensor<float, Device> nothing;
  CHECK_FALSE(nothing.defined());
  CHECK_FALSE(nothing.requires_grad());
  CHECK(lacks<ArgumentError>([&] { nothing.shape(); }, {"undefined"}) == "");
  CHECK(lacks<ArgumentError>([&] { nothing.data(); }, {"undefined"}) == "");
  CHECK(lacks<ArgumentError>([&] { nothing.to_host(); }, {"undefined"}) == "");
}

TEST_CASE("Values and shapes that do not fit are refused") {
  using F = Tensor<float, Device>;
  const auto x = F::ones({2, 3});
  CHECK(lacks<ShapeError>([] { F::from({2, 2}, {1, 2, 3}); }, {"Tensor::from", "[2, 2]", "4", "3"}) == "");
  CHECK(lacks<ShapeError>([&] { F({7}, x.buffer()); }, {"Tensor", "[7]", "6"}) == "");
  CHECK(lacks<ShapeError>([&] { x.item(); }, {"item", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { x.assign(F::ones({3, 2})); }, {"assign", "[2, 3]", "[3, 2]"}) == "");
  CHECK(lacks<ShapeError>([&] { x.set_grad(F::ones({6})); }, {"set_grad", "[2, 3]", "[6]"}) == "");
  CHECK(lacks<ShapeError>([&] { x.size(2); }, {"axis 2"}) == "");
}

TEST_CASE("Only a leaf can be marked") {
  auto x = Tensor<float, Device>::ones({2}).set_requires_grad();
  auto y = x * 2.0f;
  CHECK(lacks<ArgumentError>([&] { y.set_requires_grad(false); }, {"leaf"}) == "");
  x.set_requires_grad(false);
  CHECK_FALSE((x * 2.0f).requires_grad());
}
